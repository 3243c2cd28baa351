//! The commands of a script, one a line.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    thread,
};

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;

/// Longest line, in bytes: a script is for commands, and must not fill our memory.
const MAX_LINE: usize = 16 << 20;

/// A script that can be read.
pub struct Script {
    input: Box<dyn Read + Send>,
    name: String,
}

impl Script {
    /// Opens `file`, or takes standard input.
    ///
    /// # Errors
    /// When it cannot be read, or is a directory.
    pub fn open(file: Option<&Path>) -> Result<Self> {
        let Some(path) = file else {
            return Ok(Script { input: Box::new(io::stdin()), name: "standard input".to_owned() });
        };
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("opening the script {name}"))?;
        let found = file.metadata().with_context(|| format!("the script {name}"))?;
        ensure!(!found.is_dir(), "the script {name}: it is a directory, and must be a file");
        Ok(Script { input: Box::new(file), name })
    }

    /// The commands, each as soon as its line is there, but no more than one ahead.
    pub fn lines(self) -> mpsc::Receiver<Result<Vec<u8>>> {
        let (send, receive) = mpsc::channel(1);
        // It blocks for as long as the input does, which may be for ever: it ends with the process.
        thread::spawn(move || {
            let mut input = BufReader::new(self.input);
            for number in 1u64.. {
                let line = match line(&mut input) {
                    Ok(None) => break,
                    Ok(Some(line)) if is_command(&line) => Ok(line),
                    Ok(Some(_)) => continue,
                    Err(error) => Err(error).with_context(|| format!("{}, line {number}", self.name)),
                };
                let last = line.is_err();
                if send.blocking_send(line).is_err() || last {
                    break;
                }
            }
        });
        receive
    }
}

/// The next line, without its end; `None` after the last.
fn line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    // One more for the end of the line.
    input.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > MAX_LINE {
        let problem = format!("it is too long: at most {MAX_LINE} bytes are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(Some(line))
}

/// Whether a line is neither blank nor a comment.
fn is_command(line: &[u8]) -> bool {
    !matches!(line.trim_ascii_start().first(), None | Some(b'#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<Result<Vec<u8>>> {
        let script = Script { input: Box::new(io::Cursor::new(input.to_vec())), name: "s".to_owned() };
        let mut lines = script.lines();
        std::iter::from_fn(|| lines.blocking_recv()).collect()
    }

    fn commands(input: &[u8]) -> Vec<Vec<u8>> {
        all(input).into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn blank_lines_and_comments_are_skipped() {
        let script = b"echo hello\nuname -r\n# comment\n\n \t\r\n  #!/bin/sh\nwhoami\n";
        assert_eq!(commands(script), [&b"echo hello"[..], b"uname -r", b"whoami"]);
        for empty in [&b""[..], b"\n\n", b"#", b"  # x"] {
            assert!(commands(empty).is_empty());
        }
    }

    #[test]
    fn what_is_in_a_line_stays_as_it_is() {
        for line in [
            &b"  echo 'a  b' \"c\" # d  "[..],
            "echo \u{e4}\u{1f980}".as_bytes(),
            b"printf '\xff\xfe\x80'",
            b"a\0b\r",
            &[b'x'; 1 << 20],
        ] {
            assert_eq!(commands(&[line, b"\n", line].concat()), [line, line]);
        }
    }

    #[test]
    fn a_line_that_is_too_long_ends_it() {
        let longest = vec![b'x'; MAX_LINE];
        assert_eq!(commands(&longest), [&longest[..]]);
        assert_eq!(commands(&[&longest[..], b"\n"].concat()), [&longest[..]]);
        let mut found = all(&[b"first\n", &longest[..], b"x\nlast\n"].concat());
        let error = format!("{:#}", found.pop().unwrap().unwrap_err());
        assert_eq!(error, "s, line 2: it is too long: at most 16777216 bytes are allowed");
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_script_must_be_a_file_that_is_there() {
        let refused = |path: &str| format!("{:#}", Script::open(Some(Path::new(path))).err().unwrap());
        assert!(refused("/no/such").contains("/no/such: No such file"));
        assert!(refused("/etc").contains("/etc: it is a directory"));
    }
}
