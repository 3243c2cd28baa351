//! Names and passwords, from where `docker login` puts them.
//!
//! Source: https://github.com/docker/docker-credential-helpers and
//! https://docs.docker.com/reference/cli/docker/login/#credential-helper-protocol

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::Credentials;
use crate::{Error, Result, manifest::json};

/// What Docker calls its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// What a helper says when it has none.
const NOT_FOUND: &[u8] = b"credentials not found";
/// How long a helper may take: it may ask its user.
const HELPER_TIME: Duration = Duration::from_secs(60);

impl Credentials {
    /// Those of Docker's file in `$DOCKER_CONFIG` or in `~/.docker`.
    pub fn docker() -> Credentials {
        let below_home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
        let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(below_home);
        directory
            .map_or(Credentials::Anonymous, |directory| Credentials::Docker(directory.join("config.json")))
    }
}

/// Without the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Credentials::Anonymous => out.write_str("Anonymous"),
            Credentials::Basic { user, .. } => write!(out, "Basic({user:?})"),
            Credentials::Docker(path) => write!(out, "Docker({path:?})"),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Auth>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The user and password for `registry`, if there are any.
pub(super) async fn find(credentials: &Credentials, registry: &str) -> Result<Option<(String, String)>> {
    match credentials {
        Credentials::Anonymous => Ok(None),
        Credentials::Basic { user, password } => Ok(Some((user.clone(), password.clone()))),
        Credentials::Docker(path) => in_file(path, registry).await,
    }
}

async fn in_file(path: &Path, registry: &str) -> Result<Option<(String, String)>> {
    let refuse = |why: String| Error::Credentials { registry: registry.to_owned(), why };
    let config: Config = match std::fs::read(path) {
        Ok(bytes) => json(&bytes, &path.display().to_string())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(format!("reading {}: {error}", path.display()))),
    };
    let helper = config.cred_helpers.iter().find(|(key, _)| same(key, registry)).map(|(_, helper)| helper);
    if let Some(helper) = helper.or(config.creds_store.as_ref()).filter(|helper| !helper.is_empty()) {
        let found = ask(helper, registry).await.map_err(refuse)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    let Some((_, auth)) = config.auths.iter().find(|(key, _)| same(key, registry)) else { return Ok(None) };
    decode(auth).map_err(|why| refuse(format!("{}: {why}", path.display())))
}

/// Whether a key of Docker's file is this registry: with or without `https://`, and a path after it.
fn same(key: &str, registry: &str) -> bool {
    let key = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    let host = key.split('/').next().unwrap_or_default();
    const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    host == registry || HUB.contains(&registry) && HUB.contains(&host)
}

fn decode(auth: &Auth) -> Result<Option<(String, String)>, String> {
    if auth.identitytoken.as_ref().is_some_and(|token| !token.is_empty()) {
        return Err("an identity token; only a user with a password or an access token is allowed".into());
    }
    if let (Some(user), Some(password)) = (&auth.username, &auth.password) {
        return Ok(Some((user.clone(), password.clone())));
    }
    // A login that a helper keeps has an empty entry.
    let Some(text) = auth.auth.as_ref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let bytes = BASE64_STANDARD.decode(text).map_err(|_| "an \"auth\" that is no base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "an \"auth\" that is no text")?;
    let (user, password) = text.split_once(':').ok_or("an \"auth\" that is no user:password")?;
    Ok(Some((user.to_owned(), password.trim_end_matches('\0').to_owned())))
}

/// Asks `docker-credential-HELPER`.
async fn ask(helper: &str, registry: &str) -> Result<Option<(String, String)>, String> {
    if helper.contains('/') {
        return Err(format!("the helper {helper:?}: the name of a program is allowed, no path"));
    }
    let program = format!("docker-credential-{helper}");
    run(&program, Command::new(&program), registry).await
}

async fn run(
    program: &str,
    mut command: Command,
    registry: &str,
) -> Result<Option<(String, String)>, String> {
    let server = if same(DOCKER_HUB, registry) { DOCKER_HUB } else { registry };
    let running = async {
        command
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may have ended without reading.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match timeout(HELPER_TIME, running).await {
        Ok(output) => output.map_err(|error| format!("running {program}: {error}"))?,
        Err(_) => return Err(format!("{program} did not answer within {HELPER_TIME:?}")),
    };
    if !output.status.success() {
        if output.stdout.trim_ascii().starts_with(NOT_FOUND) {
            return Ok(None);
        }
        return Err(format!("{program} failed: {}", output.status));
    }
    // Its bytes are a secret: no error shows them.
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("{program} did not answer with {{\"Username\":…,\"Secret\":…}}"))?;
    if answer.username == "<token>" {
        return Err(format!("{program} has an identity token; only a user with a password is allowed"));
    }
    Ok(Some((answer.username, answer.secret)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What a test takes for a helper.
    const HELPER: &str = r#"
        read -r server || true
        [ "$1" = get ] || exit 1
        case $server in
        none) echo 'credentials not found in native keychain' && exit 1 ;;
        bad) exit 1 ;;
        noise) echo secret ;;
        *) printf '{"ServerURL":"x","Username":"u","Secret":"%s"}' "$server" ;;
        esac
    "#;

    async fn found(config: &str, registry: &str) -> Result<Option<(String, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, config).unwrap();
        find(&Credentials::Docker(path), registry).await
    }

    fn pair(user: &str, password: &str) -> Option<(String, String)> {
        Some((user.into(), password.into()))
    }

    #[tokio::test]
    async fn a_login_is_found_whatever_docker_calls_the_registry() {
        // a:b:c and d:e
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpiOmM="},"r.example:5000":{"auth":"ZDpl"}}}"#;
        assert_eq!(found(config, "docker.io").await.unwrap(), pair("a", "b:c"));
        assert_eq!(found(config, "r.example:5000").await.unwrap(), pair("d", "e"));
        for other in ["r.example", "example", "evil-r.example:5000", "index.docker.io.evil"] {
            assert_eq!(found(config, other).await.unwrap(), None, "{other}");
        }
        let missing = Credentials::Docker("/nowhere/config.json".into());
        assert_eq!(find(&missing, "docker.io").await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_told_without_the_secret() {
        for auth in [r#""auth":"?""#, r#""auth":"c2VjcmV0""#, r#""identitytoken":"secret""#] {
            let error =
                found(&format!(r#"{{"auths":{{"r.example":{{{auth}}}}}}}"#), "r.example").await.unwrap_err();
            assert!(matches!(error, Error::Credentials { .. }));
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let basic = Credentials::Basic { user: "u".into(), password: "secret".into() };
        assert!(!format!("{basic:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_helper_is_a_program_in_the_path() {
        let error = found(r#"{"credsStore":"../../tmp/x"}"#, "r.example").await.unwrap_err();
        assert!(error.to_string().contains("no path"), "{error}");
        let error = found(r#"{"credHelpers":{"r.example":"krun-no-such"}}"#, "r.example").await.unwrap_err();
        assert!(error.to_string().contains("docker-credential-krun-no-such"), "{error}");
        // Another registry's helper is not asked.
        assert_eq!(
            found(r#"{"credHelpers":{"r.example":"krun-no-such"}}"#, "b.example").await.unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn a_helper_gets_the_registry_and_gives_a_login() {
        let ask = async |registry| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", HELPER, "helper"]);
            run("helper", command, registry).await
        };
        assert_eq!(ask("r.example").await.unwrap(), pair("u", "r.example"));
        assert_eq!(ask("docker.io").await.unwrap(), pair("u", DOCKER_HUB));
        assert_eq!(ask("none").await.unwrap(), None);
        ask("bad").await.unwrap_err();
        assert!(!ask("noise").await.unwrap_err().contains("secret"));
    }
}
