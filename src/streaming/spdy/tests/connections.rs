//! Connections: replies, refusals, backlog, ends.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::super::channel::Taken;
use super::super::connection::{Judge, Rules, Verdict};
use super::{Bed, Client, hex, rules};

#[tokio::test]
async fn every_stream_is_replied_to_at_once_and_data_follows() {
    let mut bed = Bed::new(rules(), Box::new(|_| Verdict::Take));
    let mut client = Client::new();
    for id in [1, 3, 5] {
        client.open(id, &[("streamtype", "stdout")]);
        bed.send(&mut client).await;
        assert_eq!(bed.reply().await, id);
    }
    let first = bed.arrivals.recv().await.unwrap();
    let mut outlet = first.outlet;
    outlet.send(Bytes::from_static(b"hello")).await.unwrap();
    outlet.finish().await;
    outlet.finish().await;
    assert_eq!(bed.frame().await, (1, 0, b"hello".to_vec()));
    assert_eq!(bed.frame().await, (1, 1, Vec::new()));

    bed.line.close().await;
    let mut resets = vec![bed.frame().await, bed.frame().await];
    resets.sort();
    assert_eq!(
        resets,
        [
            (0x8003_0003, 0, hex("00000003 00000005")),
            (0x8003_0003, 0, hex("00000005 00000005"))
        ]
    );
    assert_eq!(
        bed.frame().await,
        (0x8003_0007, 0, hex("00000005 00000000"))
    );
    assert_eq!(
        bed.io.read_u8().await.unwrap_err().kind(),
        std::io::ErrorKind::UnexpectedEof
    );
    // We wait for the client to close too.
    client.control(6, 0, &hex("00000001"));
    bed.send(&mut client).await;
    drop(bed.io);
    bed.driver.await.unwrap();
}

#[tokio::test]
async fn pings_are_echoed_and_wrong_streams_refused_while_the_rest_goes_on() {
    let judge: Judge = Box::new(|headers| match headers.get("port") {
        Some(_) => Verdict::Take,
        None => Verdict::Refuse,
    });
    let mut bed = Bed::new(rules(), judge);
    let mut client = Client::new();
    client.control(6, 0, &hex("00000007"));
    client.open(3, &[("streamtype", "data")]);
    client.open(5, &[("port", "80")]);
    client.open(5, &[("port", "80")]);
    client.open(1, &[("port", "80")]);
    client.open(8, &[("port", "80")]);
    client.data(99, b"for nobody", false);
    client.control(3, 0, &hex("00000063 00000005"));
    client.open(7, &[("port", "80")]);
    bed.send(&mut client).await;
    assert_eq!(bed.frame().await, (0x8003_0006, 0, hex("00000007")));
    assert_eq!(
        bed.frame().await,
        (0x8003_0003, 0, hex("00000003 00000005"))
    );
    assert_eq!(bed.reply().await, 5);
    for id in ["00000005", "00000001", "00000008"] {
        assert_eq!(
            bed.frame().await,
            (0x8003_0003, 0, hex(&format!("{id}00000001")))
        );
    }
    assert_eq!(bed.reply().await, 7);
}

#[tokio::test]
async fn a_broken_rule_ends_the_connection_with_a_word() {
    let mut bed = Bed::new(rules(), Box::new(|_| Verdict::Take));
    let mut client = Client::new();
    client.open(1, &[("streamtype", "stdin")]);
    bed.send(&mut client).await;
    bed.reply().await;
    let mut stream = bed.arrivals.recv().await.unwrap();
    bed.io
        .write_all(&hex("8003000400000008 0fffffff 00000000"))
        .await
        .unwrap();
    assert_eq!(
        bed.frame().await,
        (0x8003_0007, 0, hex("00000001 00000001"))
    );
    assert_eq!(stream.inlet.next().await, Taken::Gone);
    assert!(bed.line.gone().is_cancelled());
    bed.driver.await.unwrap();
}

#[tokio::test]
async fn what_a_client_said_before_it_left_is_still_heard() {
    let mut bed = Bed::new(rules(), Box::new(|_| Verdict::Take));
    let mut client = Client::new();
    client.open(1, &[("streamtype", "stdin")]);
    client.data(1, b"last words", false);
    client.control(3, 0, &hex("00000001 00000005"));
    bed.send(&mut client).await;
    let mut stream = bed.arrivals.recv().await.unwrap();
    assert_eq!(
        stream.inlet.next().await,
        Taken::Bytes(Bytes::from_static(b"last words"))
    );
    assert_eq!(stream.inlet.next().await, Taken::Gone);
    assert!(stream.outlet.send(Bytes::from_static(b"x")).await.is_err());
}

#[tokio::test]
async fn a_full_backlog_stops_the_reading_and_a_reader_lets_it_go_on() {
    let rules = Rules {
        backlog: 64 * 1024,
        ..rules()
    };
    let mut bed = Bed::new(rules, Box::new(|_| Verdict::Take));
    let mut client = Client::new();
    client.open(1, &[("streamtype", "stdin")]);
    for _ in 0..64 {
        client.data(1, &[7; 32 * 1024], false);
    }
    client.data(1, b"", true);
    let mut stream = {
        let wire = client.wire.split();
        let mut sending = std::pin::pin!(bed.io.write_all(&wire));
        let stuck = tokio::time::timeout(Duration::from_millis(100), &mut sending).await;
        assert!(
            stuck.is_err(),
            "two megabytes were taken though nobody reads them"
        );
        let mut stream = bed.arrivals.recv().await.unwrap();
        let mut count = 0;
        let read = async {
            while let Taken::Bytes(bytes) = stream.inlet.next().await {
                count += bytes.len();
            }
        };
        let (sent, ()) = futures::join!(sending, read);
        sent.unwrap();
        assert_eq!(count, 64 * 32 * 1024);
        stream
    };
    assert_eq!(stream.inlet.next().await, Taken::End);
}

#[tokio::test(start_paused = true)]
async fn one_stream_that_nobody_reads_gives_way_to_the_others() {
    let rules = Rules {
        backlog: 64 * 1024,
        may_cut: true,
        ..rules()
    };
    let mut bed = Bed::new(rules, Box::new(|_| Verdict::Take));
    let mut client = Client::new();
    for id in [1, 3, 5, 7] {
        client.open(id, &[("port", "80")]);
    }
    client.data(3, &[7; 300 * 1024], false);
    client.data(7, b"waits behind it", true);
    let wire = client.wire.split();
    let (sent, arrivals) = futures::join!(bed.io.write_all(&wire), async {
        let mut found = Vec::new();
        for _ in 0..4 {
            found.push(bed.arrivals.recv().await.unwrap());
        }
        let last = found.last_mut().unwrap();
        assert_eq!(
            last.inlet.next().await,
            Taken::Bytes(Bytes::from_static(b"waits behind it"))
        );
        found
    });
    sent.unwrap();
    let mut hog = arrivals.into_iter().nth(1).unwrap();
    assert!(hog.inlet.next().await == Taken::Gone);
    assert!(hog.outlet.send(Bytes::from_static(b"x")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn silence_in_both_directions_ends_it() {
    let rules = Rules {
        idle: Some(Duration::from_secs(60)),
        ..rules()
    };
    let mut bed = Bed::new(rules, Box::new(|_| Verdict::Take));
    let mut client = Client::new();
    client.open(1, &[("streamtype", "stdout")]);
    bed.send(&mut client).await;
    bed.reply().await;
    let stream = bed.arrivals.recv().await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        stream.outlet.send(Bytes::from_static(b"x")).await.unwrap();
        bed.frame().await;
    }
    tokio::time::timeout(Duration::from_secs(61), bed.line.gone().cancelled())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_session_that_is_dropped_ends_its_connection() {
    let mut bed = Bed::new(rules(), Box::new(|_| Verdict::Take));
    let mut client = Client::new();
    client.open(1, &[("streamtype", "stdout")]);
    bed.send(&mut client).await;
    bed.reply().await;
    let (arrivals, line) = (bed.arrivals, bed.line);
    drop((arrivals, line));
    let mut rest = Vec::new();
    bed.io.read_to_end(&mut rest).await.unwrap();
    assert!(
        rest.ends_with(&hex("8003000700000008 00000001 00000000")),
        "{rest:x?}"
    );
    drop(bed.io);
    bed.driver.await.unwrap();
}
