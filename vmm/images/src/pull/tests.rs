//! Pulls from a registry that is right, busy, or lies.

use std::{fs, sync::Mutex};

use super::{
    fake::{Answer, Fake},
    *,
};
use crate::testing::{blob, config, gzip, index, layer, manifest, root};

/// A wrong answer, and whether an error tells of it.
type Lie = (Answer, fn(&Error) -> bool);

const REFERENCE: &str = "/v2/app/manifests/v1";

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("images")).unwrap();
    (dir, store)
}

fn options() -> PullOptions {
    PullOptions {
        credentials: Credentials::Anonymous,
        plain_http: true,
        // What takes so long does not come: the fake has nothing to wait for.
        stall: Duration::from_secs(10),
        backoff: Duration::from_millis(1),
        ..Default::default()
    }
}

async fn pull(fake: &Fake, store: &Store, options: &PullOptions) -> Result<Image> {
    store.pull(&format!("{}/app:v1", fake.address), options, |_| {}).await
}

/// What a fresh store says to the image of `fake`.
async fn refused(fake: &Fake, options: &PullOptions) -> Error {
    let (_dir, store) = store();
    let error = pull(fake, &store, options).await.unwrap_err();
    // Nothing is left of it.
    for directory in ["layers", "configs", "refs", "tmp"] {
        assert_eq!(fs::read_dir(store.path().join(directory)).unwrap().count(), 0, "{directory}");
    }
    error
}

/// A registry with an image of these unpacked layers. Returns the digests of the packed ones.
async fn serving(layers: &[Vec<u8>]) -> (Fake, Vec<Digest>) {
    let fake = Fake::start().await;
    let config = config(layers);
    fake.blob(&config);
    let packed: Vec<_> = layers.iter().map(|layer| gzip(layer)).collect();
    let digests = packed.iter().map(|packed| fake.blob(packed)).collect();
    let blobs: Vec<_> = packed.iter().map(|packed| blob(packed)).collect();
    fake.answer(REFERENCE, [Answer::Body(manifest(&blob(&config), &blobs))]);
    (fake, digests)
}

fn one() -> Vec<Vec<u8>> {
    vec![layer(&[("a", "1")])]
}

#[tokio::test]
async fn an_image_is_pulled_with_its_layers_in_order() {
    if !root() {
        return;
    }
    let layers = [layer(&[("a", "1")]), layer(&[("b", "2")])];
    let (fake, digests) = serving(&layers).await;
    let (_dir, store) = store();
    let seen = Mutex::new(Vec::new());
    let reference = format!("{}/app:v1", fake.address);
    let image =
        store.pull(&reference, &options(), |progress| seen.lock().unwrap().push(progress)).await.unwrap();
    let paths: Vec<_> = image.layers().iter().map(|layer| layer.path().to_owned()).collect();
    assert_eq!(fs::read_to_string(paths[0].join("a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(paths[1].join("b")).unwrap(), "2");
    assert_eq!((image.config().argv(None, &[]), image.config().env.len()), (vec!["serve".to_owned()], 1));
    assert_eq!(image.record().reference, reference);
    let last =
        |number: usize| seen.lock().unwrap().iter().rfind(|seen| seen.layer == number).unwrap().clone();
    for number in [0, 1] {
        let last = last(number);
        assert_eq!(
            (last.layers, last.done, last.unpacked, &last.digest),
            (2, last.total, true, &digests[number])
        );
    }
    assert_eq!(store.find(&reference).unwrap().unwrap().record(), image.record());
    assert_eq!(store.list().unwrap(), [image.record().clone()]);
}

#[tokio::test]
async fn a_layer_that_is_there_is_not_fetched_again() {
    if !root() {
        return;
    }
    let (fake, digests) = serving(&one()).await;
    let (_dir, store) = store();
    pull(&fake, &store, &options()).await.unwrap();
    pull(&fake, &store, &options()).await.unwrap();
    let path = format!("/v2/app/blobs/{}", digests[0]);
    assert_eq!(fake.requests().iter().filter(|request| request.0 == path).count(), 1);
}

#[tokio::test]
async fn pulls_at_the_same_time_do_not_disturb_each_other() {
    if !root() {
        return;
    }
    let (fake, _) = serving(&[layer(&[("a", "1")]), layer(&[("b", "2")])]).await;
    let (_dir, store) = store();
    let options = options();
    let pulls = (0..4).map(|_| pull(&fake, &store, &options));
    for image in futures::future::join_all(pulls).await {
        assert_eq!(image.unwrap().layers().len(), 2);
    }
    assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn of_an_index_the_image_for_this_machine_is_pulled() {
    if !root() {
        return;
    }
    let (fake, _) = serving(&one()).await;
    let config = config(&one());
    let ours = manifest(&blob(&config), &[blob(&gzip(&one()[0]))]);
    let (other, ours_blob) = (blob(b"other"), blob(&ours));
    let document = index(&[("arm64", &other), ("amd64", &ours_blob)]);
    fake.answer(REFERENCE, [Answer::Body(document)]);
    let path = format!("/v2/app/manifests/{}", ours_blob.digest);
    fake.answer(&path, [Answer::Body(ours.clone())]);
    let (_dir, store) = store();
    let image = pull(&fake, &store, &options()).await.unwrap();
    assert_eq!(image.record().manifest.as_ref(), Some(&ours_blob.digest));

    fake.answer(path, [Answer::Body([&ours[..], b" "].concat())]);
    assert!(matches!(refused(&fake, &options()).await, Error::TooLong { .. }));
    fake.answer(REFERENCE, [Answer::Body(index(&[("arm64", &other)]))]);
    assert!(
        matches!(refused(&fake, &options()).await, Error::Platform { found, .. } if found == "linux/arm64")
    );
}

#[tokio::test]
async fn a_reference_with_a_digest_gets_that_manifest_only() {
    if !root() {
        return;
    }
    let (fake, _) = serving(&one()).await;
    let config = config(&one());
    let right = manifest(&blob(&config), &[blob(&gzip(&one()[0]))]);
    let digest = Digest::of(&right);
    let (_dir, store) = store();
    let reference = format!("{}/app@{digest}", fake.address);
    let path = format!("/v2/app/manifests/{digest}");
    fake.answer(&path, [Answer::Body(right.clone())]);
    store.pull(&reference, &options(), |_| {}).await.unwrap();
    fake.answer(&path, [Answer::Body([&right[..], b" "].concat())]);
    let error = store.pull(&reference, &options(), |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { wanted, .. } if wanted == digest));
}

#[tokio::test]
async fn a_layer_must_have_its_size_and_digest() {
    if !root() {
        return;
    }
    let (fake, digests) = serving(&one()).await;
    let path = format!("/v2/app/blobs/{}", digests[0]);
    let packed = gzip(&one()[0]);
    let mut wrong = packed.clone();
    wrong[12] ^= 1;
    let cases: [Lie; 6] = [
        (Answer::Body(wrong), |error| matches!(error, Error::Mismatch { .. })),
        (Answer::Body(packed[1..].to_vec()), |error| matches!(error, Error::Truncated { .. })),
        (Answer::Cut(packed[1..].to_vec()), |error| matches!(error, Error::Transport { .. })),
        (Answer::Body([&packed[..], b"x"].concat()), |error| matches!(error, Error::TooLong { .. })),
        (Answer::Endless, |error| matches!(error, Error::TooLong { .. })),
        (Answer::Status(404, String::new()), |error| matches!(error, Error::NotFound { .. })),
    ];
    for (number, (answer, right)) in cases.into_iter().enumerate() {
        fake.answer(&path, [answer]);
        let error = refused(&fake, &options()).await;
        assert!(right(&error), "{number}: {error}");
    }
}

#[tokio::test]
async fn a_layer_must_unpack_to_what_the_configuration_says() {
    if !root() {
        return;
    }
    let fake = Fake::start().await;
    let config = config(&[layer(&[("other", "x")])]);
    let packed = gzip(&one()[0]);
    fake.blob(&config);
    fake.blob(&packed);
    fake.answer(REFERENCE, [Answer::Body(manifest(&blob(&config), &[blob(&packed)]))]);
    assert!(
        matches!(refused(&fake, &options()).await, Error::Mismatch { what, .. } if what.contains("unpacked"))
    );
}

#[tokio::test]
async fn a_configuration_must_have_its_size_and_digest() {
    let (fake, _) = serving(&one()).await;
    let config = config(&one());
    let path = format!("/v2/app/blobs/{}", Digest::of(&config));
    let mut wrong = config.clone();
    wrong[0] = b' ';
    let cases: [Lie; 3] = [
        (Answer::Body(wrong), |error| matches!(error, Error::Mismatch { .. })),
        (Answer::Body(config[1..].to_vec()), |error| matches!(error, Error::Truncated { .. })),
        (Answer::Endless, |error| matches!(error, Error::TooLong { .. })),
    ];
    for (answer, right) in cases {
        fake.answer(&path, [answer]);
        let error = refused(&fake, &options()).await;
        assert!(right(&error), "{error}");
    }
}

#[tokio::test]
async fn a_manifest_is_cut_off_and_has_the_digest_that_its_header_says() {
    let (fake, _) = serving(&one()).await;
    fake.answer(REFERENCE, [Answer::Endless]);
    let error = refused(&fake, &options()).await;
    assert!(matches!(error, Error::TooLong { allowed: crate::MAX_DOCUMENT, .. }), "{error}");
    fake.answer(REFERENCE, [Answer::Body(b"<html>".to_vec())]);
    assert!(matches!(refused(&fake, &options()).await, Error::Document { .. }));
    let header = format!("Docker-Content-Digest: {}\r\n", Digest::of(b"other"));
    fake.answer(REFERENCE, [Answer::With(header, b"{}".to_vec())]);
    assert!(
        matches!(refused(&fake, &options()).await, Error::Mismatch { wanted, .. } if wanted == Digest::of(b"other"))
    );
}

#[tokio::test]
async fn an_image_that_is_too_big_is_not_even_fetched() {
    let (fake, digests) = serving(&one()).await;
    let small = PullOptions { unpacked: 10, ..options() };
    assert!(matches!(refused(&fake, &small).await, Error::TooBig { allowed: 10 }));
    let path = format!("/v2/app/blobs/{}", digests[0]);
    assert!(fake.requests().iter().all(|request| request.0 != path));
}

#[tokio::test]
async fn an_image_that_unpacks_to_too_much_is_refused() {
    if !root() {
        return;
    }
    let (fake, _) = serving(&[layer(&[("zeros", &"0".repeat(1 << 20))])]).await;
    let small = PullOptions { unpacked: 1 << 19, ..options() };
    assert!(matches!(refused(&fake, &small).await, Error::TooBig { .. }));
}

#[tokio::test]
async fn what_is_not_there_and_what_nobody_may_have_is_told() {
    let fake = Fake::start().await;
    let missing = refused(&fake, &options()).await.to_string();
    assert!(missing.contains("app, v1 is not there (404)"), "{missing}");
    fake.answer(REFERENCE, [Answer::Status(401, String::new())]);
    let denied = refused(&fake, &options()).await;
    assert!(matches!(denied, Error::Denied { with_credentials: false, .. }), "{denied}");
    fake.answer(REFERENCE, [Answer::Status(403, String::new())]);
    assert!(matches!(refused(&fake, &options()).await, Error::Denied { .. }));
    fake.answer(REFERENCE, [Answer::Status(418, String::new())]);
    assert!(matches!(refused(&fake, &options()).await, Error::Status { status: 418, .. }));
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_a_few_times() {
    if !root() {
        return;
    }
    let (fake, _) = serving(&one()).await;
    let right = manifest(&blob(&config(&one())), &[blob(&gzip(&one()[0]))]);
    let busy = |status, headers: &str| Answer::Status(status, headers.into());
    let later = busy(429, "Retry-After: 0\r\n");
    fake.answer(REFERENCE, [busy(429, ""), busy(503, ""), later, Answer::Body(right)]);
    let (_dir, store) = store();
    pull(&fake, &store, &options()).await.unwrap();

    fake.answer(REFERENCE, [busy(429, "")]);
    let error = refused(&fake, &options()).await;
    assert!(matches!(error, Error::TooManyRequests { tries: 4, retry_after: None, .. }), "{error}");
    fake.answer(REFERENCE, [busy(502, "")]);
    assert!(matches!(refused(&fake, &options()).await, Error::Status { status: 502, tries: 4, .. }));
    // Nobody waits so long.
    fake.answer(REFERENCE, [busy(429, "Retry-After: 3600\r\n")]);
    let error = refused(&fake, &options()).await;
    assert!(matches!(error, Error::TooManyRequests { tries: 1, retry_after: Some(3600), .. }), "{error}");
}

#[tokio::test]
async fn a_layer_that_breaks_off_is_fetched_anew_a_few_times() {
    if !root() {
        return;
    }
    let (fake, digests) = serving(&one()).await;
    let path = format!("/v2/app/blobs/{}", digests[0]);
    let packed = gzip(&one()[0]);
    let broken = || Answer::Cut(packed[..20].to_vec());
    fake.answer(&path, [broken(), broken(), Answer::Body(packed.clone())]);
    let (_dir, store) = store();
    pull(&fake, &store, &options()).await.unwrap();
    fake.answer(&path, [broken()]);
    let before = fake.requests().len();
    assert!(matches!(refused(&fake, &options()).await, Error::Transport { .. }));
    assert_eq!(fake.requests()[before..].iter().filter(|request| request.0 == path).count(), 3);
}

#[tokio::test]
async fn a_registry_that_says_nothing_more_is_left() {
    let (fake, digests) = serving(&one()).await;
    let hasty = PullOptions { stall: Duration::from_millis(100), ..options() };
    fake.answer(format!("/v2/app/blobs/{}", digests[0]), [Answer::StallInBody(b"x".to_vec())]);
    let error = refused(&fake, &hasty).await;
    assert!(matches!(error, Error::Transport { .. }), "{error}");
    fake.answer(REFERENCE, [Answer::Stall]);
    let error = refused(&fake, &hasty).await;
    assert!(matches!(error, Error::Transport { .. }), "{error}");
}

fn login() -> PullOptions {
    let credentials = Credentials::Basic { user: "u".into(), password: "p".into() };
    PullOptions { credentials, ..options() }
}

#[tokio::test]
async fn a_password_is_sent_where_it_is_asked_for() {
    if !root() {
        return;
    }
    let (fake, _) = serving(&one()).await;
    fake.want("Basic dTpw", "Basic realm=\"r\"");
    let (_dir, store) = store();
    pull(&fake, &store, &login()).await.unwrap();
    let asked = fake.requests().iter().filter(|request| request.1.is_none()).count();
    assert_eq!(asked, 1, "only the first request is sent without it");
    assert!(matches!(refused(&fake, &options()).await, Error::Denied { with_credentials: false, .. }));
    fake.want("Basic other", "Basic realm=\"r\"");
    assert!(matches!(refused(&fake, &login()).await, Error::Denied { with_credentials: true, .. }));
}

#[tokio::test]
async fn a_token_is_fetched_where_the_registry_says() {
    if !root() {
        return;
    }
    let (fake, _) = serving(&one()).await;
    let challenge = format!("Bearer realm=\"http://{}/token?x=y\",service=\"s p\"", fake.address);
    fake.want("Bearer t", &challenge);
    fake.answer("/token", [Answer::Body(br#"{"token":"t"}"#.to_vec())]);
    for (options, sent) in [(options(), None), (login(), Some("Basic dTpw".to_owned()))] {
        let (_dir, store) = store();
        pull(&fake, &store, &options).await.unwrap();
        let wanted = "/token?x=y&scope=repository%3Aapp%3Apull&service=s+p".to_owned();
        assert_eq!(
            fake.requests().iter().rfind(|request| request.0.starts_with("/token")),
            Some(&(wanted, sent))
        );
    }
    fake.answer("/token", [Answer::Endless]);
    assert!(matches!(refused(&fake, &options()).await, Error::TooLong { .. }));
    fake.answer("/token", [Answer::Status(401, String::new())]);
    assert!(matches!(refused(&fake, &login()).await, Error::Denied { with_credentials: true, .. }));
    // One that the registry does not take after all.
    fake.answer("/token", [Answer::Body(br#"{"access_token":"old"}"#.to_vec())]);
    assert!(matches!(refused(&fake, &options()).await, Error::Denied { .. }));
}

#[tokio::test]
async fn credentials_go_nowhere_without_tls_unless_the_caller_says_so() {
    let fake = Fake::start().await;
    let (_dir, store) = store();
    let tls = PullOptions { plain_http: false, stall: Duration::from_millis(100), ..login() };
    assert!(matches!(pull(&fake, &store, &tls).await, Err(Error::Transport { .. })));
    assert_eq!(fake.requests(), []);
}
