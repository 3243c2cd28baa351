//! Talks to a registry. It is never believed: what it sends is cut off where it should end, and has to have its digest.
//!
//! Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pull

use std::{path::Path, time::Duration};

use oci_spec::distribution::Reference;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, HeaderMap, HeaderValue, RETRY_AFTER},
};
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{Credentials, PullOptions};
use crate::{Digest, Error, Result, digest::Hasher, limits::MAX_DOCUMENT, manifest::Blob};

/// How often a busy registry is asked.
const TRIES: u32 = 4;
/// How often a layer is begun anew when the connection breaks.
const DOWNLOADS: u32 = 3;
/// The longest wait between two tries.
const LONGEST_WAIT: u64 = 30;
/// How many stalls a small document may take as a whole.
const DOCUMENT_STALLS: u32 = 4;
/// The media types that a registry is asked for.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
const DIGEST_HEADER: &str = "Docker-Content-Digest";

/// One repository of a registry.
pub(super) struct Registry {
    client: Client,
    base: String,
    /// The registry's name in references.
    pub(super) host: String,
    pub(super) repository: String,
    pub(super) credentials: Credentials,
    pub(super) plain_http: bool,
    /// The Authorization header that it takes. Held while one is fetched: all requests need the same one.
    authorization: Mutex<Option<HeaderValue>>,
    stall: Duration,
    backoff: Duration,
}

impl Registry {
    pub fn new(reference: &Reference, options: &PullOptions) -> Result<Registry> {
        let host = reference.registry().to_owned();
        // Fails if the process has one: then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Client::builder()
            .user_agent(concat!("krunctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.stall)
            .read_timeout(options.stall)
            .https_only(!options.plain_http);
        // A registry on this machine is not reached through a proxy, and needs nobody's certificates.
        let builder = if options.plain_http { builder.no_proxy().tls_certs_only([]) } else { builder };
        let client = builder.build().map_err(|error| Error::Transport {
            registry: host.clone(),
            what: "setting up TLS (certificates to trust are in the package ca-certificates)".into(),
            why: chain(error),
        })?;
        let scheme = if options.plain_http { "http" } else { "https" };
        Ok(Registry {
            client,
            base: format!("{scheme}://{}/v2/{}", reference.resolve_registry(), reference.repository()),
            host,
            repository: reference.repository().to_owned(),
            credentials: options.credentials.clone(),
            plain_http: options.plain_http,
            authorization: Mutex::new(None),
            stall: options.stall,
            backoff: options.backoff,
        })
    }

    /// The manifest or index of a reference, and its digest: that of the reference, if it has one.
    pub async fn named_manifest(&self, reference: &Reference) -> Result<(Vec<u8>, Digest)> {
        let name = reference.digest().or(reference.tag()).unwrap_or("latest");
        let what = format!("{}, {name}", self.repository);
        let response = self.get(&format!("{}/manifests/{name}", self.base), &what).await?;
        let header = response.headers().get(DIGEST_HEADER).cloned();
        let bytes = self.read(response, MAX_DOCUMENT, &what).await?;
        let found = Digest::of(&bytes);
        let declared =
            header.as_ref().and_then(|header| header.to_str().ok()).filter(|text| !text.is_empty());
        for wanted in [reference.digest(), declared].into_iter().flatten() {
            wanted.parse::<Digest>()?.check(found.clone(), || what.clone())?;
        }
        Ok((bytes, found))
    }

    /// The manifest that an index names.
    pub async fn manifest(&self, blob: &Blob) -> Result<Vec<u8>> {
        self.checked(&format!("{}/manifests/{}", self.base, blob.digest), blob).await
    }

    /// The small document that a manifest names.
    pub async fn document(&self, blob: &Blob) -> Result<Vec<u8>> {
        self.checked(&self.blob_url(blob), blob).await
    }

    async fn checked(&self, url: &str, blob: &Blob) -> Result<Vec<u8>> {
        let what = blob.digest.to_string();
        let response = self.get(url, &what).await?;
        let bytes = self.read(response, blob.size, &what).await?;
        blob.check(&bytes)?;
        Ok(bytes)
    }

    /// Writes a layer, as it is packed, to a file. It is whole and right when this succeeds.
    pub async fn download(&self, blob: &Blob, path: &Path, report: impl Fn(u64)) -> Result<()> {
        for _ in 1..DOWNLOADS {
            match self.try_download(blob, path, &report).await {
                // The connection broke.
                Err(Error::Transport { .. }) => sleep(self.backoff).await,
                done => return done,
            }
        }
        self.try_download(blob, path, &report).await
    }

    async fn try_download(&self, blob: &Blob, path: &Path, report: impl Fn(u64)) -> Result<()> {
        let what = blob.digest.to_string();
        let mut response = self.get(&self.blob_url(blob), &what).await?;
        let writing = || format!("writing {}", path.display());
        let file = File::create(path).await.map_err(Error::io(writing()))?;
        let mut file = BufWriter::with_capacity(256 << 10, file);
        let (mut done, mut hasher) = (0, Hasher::default());
        report(done);
        while let Some(bytes) = response.chunk().await.map_err(|error| self.transport(&what, error))? {
            done += bytes.len() as u64;
            if done > blob.size {
                break;
            }
            hasher.update(&bytes);
            file.write_all(&bytes).await.map_err(Error::io(writing()))?;
            report(done);
        }
        blob.check_size(done)?;
        file.flush().await.map_err(Error::io(writing()))?;
        blob.digest.check(hasher.finish(), || what)
    }

    fn blob_url(&self, blob: &Blob) -> String {
        format!("{}/blobs/{}", self.base, blob.digest)
    }

    /// Asks with the credentials that the registry wants.
    async fn get(&self, url: &str, what: &str) -> Result<Response> {
        let mut refused = None;
        for _ in 0..2 {
            let authorization = self.authorization(refused.as_ref()).await?;
            let sent = authorization.is_some();
            let response = self
                .send(what, || {
                    let request = self.client.get(url).header(ACCEPT, ACCEPTED);
                    match &authorization {
                        Some(authorization) => request.header("Authorization", authorization),
                        None => request,
                    }
                })
                .await?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                // An old token, or none.
                StatusCode::UNAUTHORIZED => {
                    refused = Some((authorization, response.headers().clone()));
                }
                StatusCode::FORBIDDEN => return Err(self.denied(sent)),
                StatusCode::NOT_FOUND => {
                    return Err(Error::NotFound { registry: self.host.clone(), what: what.to_owned() });
                }
                status => return Err(self.status(what, status, 1)),
            }
        }
        Err(self.denied(true))
    }

    /// The header to send. `refused` is the one that the registry did not take, and what it said.
    async fn authorization(
        &self,
        refused: Option<&(Option<HeaderValue>, HeaderMap)>,
    ) -> Result<Option<HeaderValue>> {
        let mut current = self.authorization.lock().await;
        if let Some((old, headers)) = refused {
            // Unless another request got a new one meanwhile.
            if *current == *old {
                *current = Some(self.authorize(headers).await?);
            }
        }
        Ok(current.clone())
    }

    /// Sends a request, again if the registry is busy.
    pub(super) async fn send(&self, what: &str, request: impl Fn() -> RequestBuilder) -> Result<Response> {
        let mut tries = 1;
        loop {
            let response = request().send().await.map_err(|error| self.transport(what, error))?;
            let status = response.status();
            let busy = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
            if !busy {
                return Ok(response);
            }
            let retry_after =
                response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            if tries == TRIES || retry_after.is_some_and(|seconds| seconds > LONGEST_WAIT) {
                return Err(match status {
                    StatusCode::TOO_MANY_REQUESTS => {
                        Error::TooManyRequests { registry: self.host.clone(), tries, retry_after }
                    }
                    status => self.status(what, status, tries),
                });
            }
            let wait = self.backoff * 2_u32.pow(tries - 1);
            sleep(retry_after.map_or(wait, Duration::from_secs)).await;
            tries += 1;
        }
    }

    /// The answer's content, of at most `most` bytes.
    pub(super) async fn read(&self, mut response: Response, most: u64, what: &str) -> Result<Vec<u8>> {
        let long = || Error::TooLong { what: what.to_owned(), allowed: most };
        let all = async {
            let mut bytes = Vec::new();
            while let Some(more) = response.chunk().await.map_err(|error| self.transport(what, error))? {
                if (bytes.len() + more.len()) as u64 > most {
                    return Err(long());
                }
                bytes.extend(more);
            }
            Ok(bytes)
        };
        let stalled = |_| Error::Transport {
            registry: self.host.clone(),
            what: what.to_owned(),
            why: format!("more than {:?} for a small document", self.stall * DOCUMENT_STALLS),
        };
        timeout(self.stall * DOCUMENT_STALLS, all).await.map_err(stalled)?
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn denied(&self, with_credentials: bool) -> Error {
        let with_credentials = with_credentials && !matches!(self.credentials, Credentials::Anonymous);
        Error::Denied { registry: self.host.clone(), repository: self.repository.clone(), with_credentials }
    }

    pub(super) fn status(&self, what: &str, status: StatusCode, tries: u32) -> Error {
        Error::Status { registry: self.host.clone(), what: what.to_owned(), status: status.as_u16(), tries }
    }

    fn transport(&self, what: &str, error: reqwest::Error) -> Error {
        let why = match error.is_timeout() {
            true => format!("nothing came for {:?}", self.stall),
            false => chain(error.without_url()),
        };
        Error::Transport { registry: self.host.clone(), what: what.to_owned(), why }
    }
}

/// An error with all its causes: what reqwest says itself says little.
fn chain(error: reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
