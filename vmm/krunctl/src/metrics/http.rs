//! The server of the page.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use log::{debug, warn};
use prometheus::TEXT_FORMAT;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::page::Page;

/// Clients that are served at once; more wait.
const MAX_CLIENTS: usize = 64;

/// How long a client may take over a request's head, and over all of it: who holds a place for longer keeps others from theirs.
const HEAD: Duration = Duration::from_secs(2);
const STAY: Duration = Duration::from_secs(10);

/// How long it is until the next client is taken when there was no descriptor for one.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens there.
///
/// # Errors
/// The kernel's, naming the address.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("--listen {address}"))
}

/// Serves clients, for ever.
pub async fn serve(listener: TcpListener, page: Page) {
    let room = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        // It is never closed.
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let page = page.clone();
                tokio::spawn(async move {
                    let _ = timeout(STAY, answer(client, page)).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!("take a client: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(client: TcpStream, page: Page) {
    let service = service_fn(|request: Request<Incoming>| {
        let page = page.clone();
        // Reports are taken meanwhile.
        let made = spawn_blocking(move || respond(request.method(), request.uri().path(), &page));
        async { Ok::<_, Infallible>(made.await.unwrap_or_else(|_| failed())) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(client), service)
        .await;
    if let Err(error) = served {
        debug!("a client: {error}");
    }
}

fn respond(method: &Method, path: &str, page: &Page) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => match page.text() {
            Ok(text) => (StatusCode::OK, TEXT_FORMAT, text),
            Err(error) => {
                warn!("{error:#}");
                return failed();
            }
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "only /metrics is here\n".to_owned()),
    };
    reply(status, kind, text)
}

/// Who may ask need not be root: the log says more.
fn failed() -> Response<Full<Bytes>> {
    reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "sandboxes cannot be looked for\n".to_owned())
}

fn reply(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{super::counted::Counted, *};

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_the_page_is_served_and_a_silent_client_keeps_nobody_out() {
        let listener = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Page::new(Counted::new().unwrap(), 9)));
        // More than there are places for.
        let mut silent = Vec::new();
        for _ in 0..MAX_CLIENTS + 8 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // Whether sandboxes can be looked for depends on who runs this.
        let page = ask(address, "GET /metrics").await;
        assert!(page.starts_with("HTTP/1.1 200") || page.starts_with("HTTP/1.1 500"), "{page}");
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404"));
    }
}
