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
