//! What an image says of the container that runs it.

use oci_spec::image::ImageConfiguration;

/// The fields of an image's configuration that a container is made from. What the image does not say is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Environment variables, as `NAME=value`.
    pub env: Vec<String>,
    /// The first arguments of the command line.
    pub entrypoint: Vec<String>,
    /// The arguments after the entry point, when the user gives none.
    pub cmd: Vec<String>,
    /// The user, as `user`, `uid`, `user:group` or `uid:gid`; a name is looked up in the image.
    pub user: Option<String>,
    /// The directory that the command starts in.
    pub working_dir: Option<String>,
    /// Ports that the image listens on, like `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// The signal that asks the container to end, like `SIGQUIT` or `3`.
    pub stop_signal: Option<String>,
}

impl ImageConfig {
    pub(crate) fn new(document: &ImageConfiguration) -> ImageConfig {
        let Some(config) = document.config() else { return ImageConfig::default() };
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        ImageConfig {
            env: list(config.env()),
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            user: text(config.user()),
            working_dir: text(config.working_dir()),
            exposed_ports: list(config.exposed_ports()),
            stop_signal: text(config.stop_signal()),
        }
    }

    /// The command line, by the rules of `docker run`: `args` replace the image's Cmd; an entry point of the user's replaces
    /// the image's, and then the image's Cmd does not count. An empty entry point (`--entrypoint ""`) is none.
    ///
    /// An empty result says that neither names a command.
    pub fn argv(&self, entrypoint: Option<&str>, args: &[String]) -> Vec<String> {
        let (entrypoint, cmd) = match entrypoint {
            None => (self.entrypoint.clone(), self.cmd.as_slice()),
            Some("") => (Vec::new(), [].as_slice()),
            Some(own) => (vec![own.to_owned()], [].as_slice()),
        };
        let rest = if args.is_empty() { cmd } else { args };
        entrypoint.into_iter().chain(rest.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_command_line_is_that_of_docker_run() {
        let image =
            ImageConfig { entrypoint: list("/entry -x"), cmd: list("serve now"), ..Default::default() };
        let argv = |entrypoint, args| image.argv(entrypoint, &list(args)).join(" ");
        assert_eq!(argv(None, ""), "/entry -x serve now");
        assert_eq!(argv(None, "a b"), "/entry -x a b");
        assert_eq!(argv(Some("/bin/sh"), ""), "/bin/sh");
        assert_eq!(argv(Some("/bin/sh"), "-c ls"), "/bin/sh -c ls");
        assert_eq!(argv(Some(""), "ls"), "ls");
        assert_eq!(argv(Some(""), ""), "");
    }

    #[test]
    fn what_a_configuration_leaves_out_is_empty() {
        let document = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
            "config":{"Env":["A=b"],"Entrypoint":null,"Cmd":["sh"],"User":"","WorkingDir":"/srv",
            "ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"}}"#;
        let config = ImageConfig::new(&serde_json::from_str(document).unwrap());
        let wanted = ImageConfig {
            env: list("A=b"),
            cmd: list("sh"),
            working_dir: Some("/srv".into()),
            exposed_ports: list("80/tcp"),
            stop_signal: Some("SIGQUIT".into()),
            ..Default::default()
        };
        assert_eq!(config, wanted);
    }
}
