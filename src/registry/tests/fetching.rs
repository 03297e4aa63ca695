use super::*;

#[tokio::test]
async fn a_stream_that_breaks_goes_on_where_it_broke() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    let mut shelf = Shelf::default();
    let digest = shelf.blob(bytes.clone());
    let stub = counting(
        shelf,
        |nth, _, reply| if nth < 2 { reply.cut_at(30_000) } else { reply },
    );
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    let got = drain(repository.blob(layer(digest, bytes.len()), 0))
        .await
        .unwrap();

    assert_eq!(got, bytes);
    let ranges: Vec<Option<String>> = stub
        .seen()
        .iter()
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=30000-".into()),
            Some("bytes=60000-".into())
        ]
    );
}

#[tokio::test]
async fn a_range_that_is_ignored_is_skipped_and_another_range_refused() {
    let mut shelf = Shelf::default();
    let digest = shelf.blob("0123456789");
    let all = shelf.clone();
    let stub = Stub::start(move |seen| {
        let mut whole = seen.clone();
        whole.headers.remove("range");
        all.answer(&whole)
    });
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;
    let got = drain(repository.blob(layer(digest.clone(), 10), 4))
        .await
        .unwrap();
    assert_eq!(got, b"456789");

    let stub = Stub::start(|_| {
        Reply::new(206)
            .header("Content-Range", "bytes 7-9/10")
            .body("789")
    });
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;
    assert!(drain(repository.blob(layer(digest, 10), 4)).await.is_err());
}

#[tokio::test]
async fn a_stream_without_progress_gives_up() {
    let mut shelf = Shelf::default();
    let digest = shelf.blob("0123456789");
    let stub = Stub::start(move |seen| shelf.answer(seen).cut_at(0));
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    let error = drain(repository.blob(layer(digest, 10), 0))
        .await
        .unwrap_err();

    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(stub.lines().len() <= 5, "{:?}", stub.lines());
}

#[tokio::test]
async fn a_byte_a_connection_is_no_progress() {
    let mut shelf = Shelf::default();
    let bytes = vec![7_u8; 10_000];
    let digest = shelf.blob(bytes.clone());
    let stub = Stub::start(move |seen| shelf.answer(seen).cut_at(1));
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    let error = drain(repository.blob(layer(digest, bytes.len()), 0))
        .await
        .unwrap_err();

    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(stub.lines().len() <= 5, "{:?}", stub.lines());
}

#[tokio::test]
async fn a_document_that_stops_halfway_is_given_up() {
    let mut shelf = Shelf::default();
    let digest = shelf.blob("{\"a\": 1}");
    let stub = Stub::start(move |seen| shelf.answer(seen).stall_at(3));
    let settings = Settings {
        idle_timeout: Duration::from_millis(200),
        ..settings()
    };
    let repository = open_with(settings, &stub, ":v1", &Credentials::anonymous()).await;
    let config = Descriptor {
        media_type: "application/vnd.oci.image.config.v1+json".into(),
        ..layer(digest, 8)
    };

    let limit = Duration::from_secs(20);
    let read = tokio::time::timeout(limit, repository.document(&config, 1_000)).await;

    assert_eq!(read.unwrap().unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_blob_of_another_size_than_announced_is_refused() {
    let mut shelf = Shelf::default();
    let digest = shelf.blob("0123456789");
    let stub = Stub::start(move |seen| shelf.answer(seen));
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    for size in [9, 11] {
        assert!(
            drain(repository.blob(layer(digest.clone(), size), 0))
                .await
                .is_err()
        );
    }
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[tokio::test]
async fn a_body_encoded_without_being_asked_for_is_decoded() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    let digest = Digest::sha256(&bytes);
    let encoded = gzipped(&bytes);
    let stub = Stub::start(move |_| {
        Reply::new(200)
            .header("Content-Encoding", "gzip")
            .header("Content-Type", MANIFEST)
            .header("Docker-Content-Digest", Digest::sha256(b"none").to_string())
            .body(encoded.clone())
    });
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;
    let descriptor = layer(digest.clone(), bytes.len());

    // The length that HEAD tells is not the manifest's, nor need the digest be: the body decides.
    assert_eq!(repository.resolve().await.unwrap().target.size, 100_000);
    let document = repository.document(&descriptor, 1 << 20).await.unwrap();
    assert_eq!(document, bytes);
    let whole = drain(repository.blob(descriptor.clone(), 0)).await.unwrap();
    assert_eq!(whole, bytes);
    let rest = drain(repository.blob(descriptor, 60_000)).await.unwrap();
    assert_eq!(rest, bytes.get(60_000..).unwrap());
}

#[tokio::test]
async fn an_encoded_bomb_and_an_unknown_encoding_are_refused() {
    let bomb = gzipped(&vec![0; 8 * 1024 * 1024]);
    let stub = Stub::start(move |seen| match seen.path.ends_with("v1") {
        true => Reply::new(200)
            .header("Content-Encoding", "gzip")
            .body(bomb.clone()),
        false => Reply::new(200).header("Content-Encoding", "br").body("x"),
    });
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    let error = repository.resolve().await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
    let blob = repository.blob(layer(Digest::sha256(b"x"), 1), 0);
    let error = drain(blob).await.unwrap_err();
    assert!(error.chain().contains("encoding"), "{error}");
}
