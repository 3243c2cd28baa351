//! An error that knows its ttrpc code. Every text names what was attempted, on what.

use ttrpc::Code;

/// A failed call.
#[derive(Debug)]
pub struct Fault {
    pub code: Code,
    pub text: String,
}

impl Fault {
    pub fn new(code: Code, text: impl Into<String>) -> Fault {
        Fault { code, text: text.into() }
    }

    pub fn not_found(text: impl Into<String>) -> Fault {
        Fault::new(Code::NOT_FOUND, text)
    }

    pub fn exists(text: impl Into<String>) -> Fault {
        Fault::new(Code::ALREADY_EXISTS, text)
    }

    pub fn precondition(text: impl Into<String>) -> Fault {
        Fault::new(Code::FAILED_PRECONDITION, text)
    }

    pub fn invalid(text: impl Into<String>) -> Fault {
        Fault::new(Code::INVALID_ARGUMENT, text)
    }

    pub fn internal(text: impl Into<String>) -> Fault {
        Fault::new(Code::INTERNAL, text)
    }
}

impl From<anyhow::Error> for Fault {
    fn from(err: anyhow::Error) -> Fault {
        Fault::internal(format!("{err:#}"))
    }
}

impl From<Fault> for ttrpc::Error {
    fn from(fault: Fault) -> ttrpc::Error {
        ttrpc::Error::RpcStatus(ttrpc::get_status(fault.code, fault.text))
    }
}

/// An operating system's error in the words that runc uses: lower case, without the number.
pub fn errno_text(err: &std::io::Error) -> String {
    let text = err.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_like_runcs() {
        let err = std::io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(errno_text(&err), "no such file or directory");
    }
}
