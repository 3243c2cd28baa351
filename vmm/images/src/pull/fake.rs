//! A registry in this process, which may lie.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::Digest;

/// How many pages an endless answer has: 64 MiB are more than anybody may want.
const MUCH: usize = 64 << 8;

/// What is answered to a path.
#[derive(Clone)]
pub(crate) enum Answer {
    /// A body, with its length.
    Body(Vec<u8>),
    /// Header lines, and a body.
    With(String, Vec<u8>),
    /// A status, and header lines.
    Status(u16, String),
    /// A body that is declared longer, and then the connection's end.
    Cut(Vec<u8>),
    /// A body without a length, and for what it is without an end.
    Endless,
    /// The first bytes of a header, and nothing more.
    Stall,
    /// The headers and some bytes of a body, and nothing more.
    StallInBody(Vec<u8>),
}

/// A request: its path, and its Authorization header.
pub(crate) type Request = (String, Option<String>);

#[derive(Default)]
struct State {
    /// For each path the answers in turn; the last one stays.
    answers: HashMap<String, Vec<Answer>>,
    /// What a request's Authorization must be, and what is said of it.
    wanted: Option<(String, String)>,
    requests: Vec<Request>,
}

/// It answers as long as its runtime runs.
#[derive(Clone)]
pub(crate) struct Fake {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub async fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = Fake { address, state: Arc::default() };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        fake
    }

    /// Answers `path` so, each time the next one; the last one stays.
    pub fn answer(&self, path: impl Into<String>, answers: impl Into<Vec<Answer>>) {
        self.state.lock().unwrap().answers.insert(path.into(), answers.into());
    }

    /// Has a blob of the repository `app`.
    pub fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.answer(format!("/v2/app/blobs/{digest}"), [Answer::Body(bytes.to_vec())]);
        digest
    }

    /// Refuses requests below /v2 without this Authorization, with this WWW-Authenticate.
    pub fn want(&self, authorization: &str, challenge: &str) {
        self.state.lock().unwrap().wanted = Some((authorization.into(), challenge.into()));
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    async fn serve(&self, mut stream: TcpStream) {
        while let Some(request) = read(&mut stream).await {
            let answer = self.choose(request);
            if respond(&mut stream, answer).await.is_none() {
                return;
            }
        }
    }

    fn choose(&self, request: Request) -> Answer {
        let mut state = self.state.lock().unwrap();
        let (path, authorization) = request.clone();
        state.requests.push(request);
        if let Some((wanted, challenge)) = &state.wanted
            && path.starts_with("/v2/")
            && authorization.as_ref() != Some(wanted)
        {
            return Answer::Status(401, format!("WWW-Authenticate: {challenge}\r\n"));
        }
        let path = path.split('?').next().unwrap_or_default().to_owned();
        match state.answers.get_mut(&path) {
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
            None => Answer::Status(404, String::new()),
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8(bytes).unwrap();
    let path = text.split(' ').nth(1).unwrap().to_owned();
    let header = text.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
    });
    Some((path, header))
}

/// None ends the connection.
async fn respond(stream: &mut TcpStream, answer: Answer) -> Option<()> {
    let ok = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    match answer {
        Answer::Body(body) => stream.write_all(&[ok(body.len()), body].concat()).await.ok(),
        Answer::With(headers, body) => {
            let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), &body].concat()).await.ok()
        }
        Answer::Status(status, headers) => {
            let head = format!("HTTP/1.1 {status} Told\r\n{headers}Content-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok()
        }
        Answer::Cut(body) => {
            stream.write_all(&[ok(body.len() + 1), body].concat()).await.ok()?;
            None
        }
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
            // Until the other side has enough, or should have had.
            for _ in 0..MUCH {
                stream.write_all(&[b' '; 4096]).await.ok()?;
            }
            None
        }
        Answer::Stall => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nX-").await.ok()?;
            // Until the other side gives up.
            let _ = stream.read_u8().await;
            None
        }
        Answer::StallInBody(body) => {
            stream.write_all(&[ok(body.len() + 1), body].concat()).await.ok()?;
            let _ = stream.read_u8().await;
            None
        }
    }
}
