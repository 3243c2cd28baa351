//! What a registry wants before it answers: a token that it names the issuer of, or a password.
//!
//! Source: https://distribution.github.io/distribution/spec/auth/token/

use base64::{Engine, prelude::BASE64_STANDARD};
use http_auth::ChallengeRef;
use reqwest::{
    StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{credentials, registry::Registry};
use crate::{Error, Result, manifest::json};

/// The longest answer with a token.
const MAX_TOKEN: u64 = 1 << 20;

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    /// The header that an answer "401 Unauthorized" with these headers asks for.
    pub(super) async fn authorize(&self, headers: &HeaderMap) -> Result<HeaderValue> {
        let login = credentials::find(&self.credentials, &self.host).await?;
        let login = login.map(|(user, password)| BASE64_STANDARD.encode(format!("{user}:{password}")));
        let texts: Vec<_> =
            headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let challenges: Vec<ChallengeRef> =
            texts.iter().filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect();
        let wanted =
            |scheme: &str| challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
        if let Some(bearer) = wanted("Bearer") {
            let token = self.token(bearer, login.as_deref()).await?;
            return self.header(format!("Bearer {token}"));
        }
        match (wanted("Basic"), login) {
            (Some(_), Some(login)) => self.header(format!("Basic {login}")),
            (_, login) => Err(self.denied(login.is_some())),
        }
    }

    async fn token(&self, bearer: &ChallengeRef<'_>, login: Option<&str>) -> Result<String> {
        let parameter = |name: &str| {
            let found = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let refuse = |why: &str| Error::Credentials { registry: self.host.clone(), why: why.to_owned() };
        let realm =
            parameter("realm").ok_or_else(|| refuse("the registry does not say where to get a token"))?;
        let mut url = service(&realm, self.plain_http).map_err(|why| refuse(&why))?;
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", self.repository));
        if let Some(service) = parameter("service") {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let what = "a token";
        let authorization = login.map(|login| self.header(format!("Basic {login}"))).transpose()?;
        let response = self
            .send(what, || {
                let request = self.client().get(url.clone());
                match &authorization {
                    Some(authorization) => request.header(AUTHORIZATION, authorization),
                    None => request,
                }
            })
            .await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied(login.is_some())),
            status => return Err(self.status(what, status, 1)),
        }
        let token: Token = json(&self.read(response, MAX_TOKEN, what).await?, what)?;
        token.token.or(token.access_token).ok_or_else(|| refuse("the registry's token service gave no token"))
    }

    fn header(&self, text: String) -> Result<HeaderValue> {
        let mut header = HeaderValue::try_from(text).map_err(|_| Error::Credentials {
            registry: self.host.clone(),
            why: "a token or password with bytes that HTTP does not allow".into(),
        })?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// Where to get a token. Credentials go there, so it must have TLS, unless the registry has none either.
fn service(realm: &str, plain_http: bool) -> Result<Url, String> {
    let url =
        Url::parse(realm).map_err(|_| format!("the registry gives tokens at {realm:?}, which is no URL"))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if plain_http => Ok(url),
        _ => Err(format!("the registry gives tokens at {realm:?}; only https is allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_only_to_a_service_with_tls_unless_the_registry_has_none() {
        let url = "https://auth.example/token?a=b";
        assert_eq!(service(url, false).unwrap().as_str(), url);
        assert!(service("http://auth.example/token", true).is_ok());
        for (realm, plain_http) in
            [("http://auth.example/token", false), ("file:///etc/passwd", true), ("token", false), ("", true)]
        {
            assert!(service(realm, plain_http).is_err(), "{realm}");
        }
    }
}
