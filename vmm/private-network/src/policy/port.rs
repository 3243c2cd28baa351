//! The port that may follow a network or a name.

/// Splits `TEXT[:PORT]`.
///
/// # Errors
/// When the port is none, saying what is allowed.
pub fn split(text: &str) -> Result<(&str, Option<u16>), String> {
    let Some((rest, port)) = text.split_once(':') else { return Ok((text, None)) };
    // No sign, which Rust's numbers may have.
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port @ 1..) if is_number => Ok((rest, Some(port))),
        _ => Err(format!("{port:?} is no port: it must be a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number() {
        assert_eq!(split("a:443").unwrap(), ("a", Some(443)));
        assert_eq!(split("a").unwrap(), ("a", None));
        for text in ["a:", "a:0", "a:+1", "a:65536", "a:http", "::1", "a:1:2"] {
            assert!(split(text).unwrap_err().contains("1 to 65535"), "{text}");
        }
    }
}
