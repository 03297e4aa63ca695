//! Frames: what is read, what is refused.

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::super::super::channel::Taken;
use super::super::connection::Verdict;
use super::super::frame::{Event, Fault};
use super::{Bed, Client, events, hex, rules};

#[test]
fn frames_of_the_go_client_are_read_however_they_are_cut() {
    let wire = hex(
        "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff
         800300010000001700000003000000000000c22e555c92929907000000ffff
         800300010000001900000005000000000000c22ac5565c92925f5a02000000ffff
         800300010000001500000007000000000000c229975a5404000000ffff
         800300010000001800000009000000000000c22e57945a9c59950a000000ffff
         00000005000000036f7574 0000000501000000 80030003000000080000000500000005
         800300060000000400000001 80030007000000080000000900000000",
    );
    for step in [1, 2, 3, 7, 50, wire.len()] {
        let found = events(&wire, step).unwrap();
        let opened: Vec<_> = found
            .iter()
            .filter_map(|event| match event {
                Event::Open { id, headers, .. } => Some((*id, headers.get("streamtype").unwrap())),
                _ => None,
            })
            .collect();
        let kinds = ["error", "stdin", "stdout", "stderr", "resize"];
        assert_eq!(
            opened,
            [1, 3, 5, 7, 9].into_iter().zip(kinds).collect::<Vec<_>>()
        );
        let mut bytes = Vec::new();
        let mut rest = Vec::new();
        for event in found.into_iter().skip(5) {
            match event {
                Event::Data {
                    id: 5,
                    bytes: piece,
                    fin,
                } => {
                    bytes.extend_from_slice(&piece);
                    rest.extend(fin.then_some(Event::Data {
                        id: 5,
                        bytes: Bytes::new(),
                        fin,
                    }));
                }
                other => rest.push(other),
            }
        }
        assert_eq!(bytes, b"out");
        let end = Event::Data {
            id: 5,
            bytes: Bytes::new(),
            fin: true,
        };
        assert_eq!(
            rest,
            [
                end,
                Event::Reset { id: 5 },
                Event::Ping { id: 1 },
                Event::GoAway
            ]
        );
    }
}

#[test]
fn headers_in_any_order_share_one_inflater() {
    let wire = hex(
        "800300010000003d0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45a024cc6461c0c0c0c0590489c44c50e2663400000000ffff
         800300010000001800000003000000000000c2aa15540a2512d209000000ffff
         80030001000000140000000500000000000022df524300000000ffff
         80030001000000140000000700000000000022db524300000000ffff",
    );
    let found: Vec<_> = events(&wire, 5)
        .unwrap()
        .into_iter()
        .map(|event| match event {
            Event::Open { headers, .. } => ["streamtype", "port", "requestid"]
                .map(|name| headers.get(name).unwrap().to_owned()),
            other => panic!("{other:?}"),
        })
        .collect();
    let wanted = [("error", "0"), ("data", "0"), ("error", "1"), ("data", "1")]
        .map(|(kind, request)| [kind, "80", request].map(str::to_owned));
    assert_eq!(found, wanted);
}

#[test]
fn lengths_that_lie_end_the_connection_before_anything_is_allocated() {
    let raw = |plain: &[u8]| {
        let mut client = Client::new();
        client.open_raw(1, plain);
        events(&client.wire, 1_000).unwrap_err()
    };
    assert_eq!(
        raw(&hex("7fffffff")),
        Fault::TooLarge("more than 100 headers")
    );
    assert_eq!(
        raw(&hex("00000001 7fffffff")),
        Fault::TooLarge("a header of more than 8 KiB")
    );
    assert!(matches!(
        raw(&hex("00000001 00000005 6162")),
        Fault::Malformed(_)
    ));
    assert!(matches!(raw(&hex("00000000 00")), Fault::Malformed(_)));
    assert!(matches!(
        raw(&hex("00000001 00000001 41 00000000")),
        Fault::Malformed(_)
    ));
    assert!(matches!(
        raw(b"\0\0\0\x01\0\0\0\x04host\0\0\0\0"),
        Fault::Malformed(_)
    ));
    // A megabyte that inflates to a gigabyte would be cut at 64 KiB.
    assert_eq!(
        raw(&vec![0; 1 << 20]),
        Fault::TooLarge("a header block of more than 64 KiB")
    );

    for (wire, what) in [
        ("8003000400000008 0fffffff 00000000", "SETTINGS"),
        ("80030001 00100001", "a control frame of more than 1 MiB"),
        ("80030063 00000000", "an unknown type"),
        ("00000000 00000001 00", "stream 0"),
        ("8003000600000004 00000000", "ping 0"),
        ("8003000600000003 000001", "a short ping"),
        (
            "8003000300000008 00000001 00000000",
            "a reset without a reason",
        ),
        ("8003000100000005 0000000100", "a short SYN_STREAM"),
    ] {
        assert!(events(&hex(wire), 3).is_err(), "{what}");
    }
    let fine =
        "8003000400000004 00000000 8003000900000008 00000001 00001000 800300080000000a 00000001";
    let (mut client, mut wire) = (Client::new(), hex(fine));
    let block = client.block(&[0; 4]);
    let at = wire.len() - 5;
    wire[at] = u8::try_from(block.len() + 4).unwrap();
    wire.extend(block);
    assert_eq!(events(&wire, 4), Ok(vec![Event::Ignored; 3]));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_alike_however_they_are_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), step in 1usize..50,
    ) {
        let whole = events(&bytes, 1_000);
        let cut = events(&bytes, step);
        prop_assert_eq!(whole.is_err(), cut.is_err());
    }

    #[test]
    fn any_interleaving_of_streams_gives_each_its_own_bytes(
        frames in proptest::collection::vec((0u32..5, proptest::collection::vec(any::<u8>(), 0..300)), 0..60),
        step in 1usize..400,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = Client::new();
            let mut wanted = vec![Vec::new(); 5];
            for stream in 0..5 {
                client.open(stream * 2 + 1, &[("streamtype", "data")]);
            }
            for (stream, bytes) in &frames {
                client.data(stream * 2 + 1, bytes, false);
                wanted[usize::try_from(*stream).unwrap()].extend_from_slice(bytes);
            }
            for stream in 0..5 {
                client.data(stream * 2 + 1, b"", true);
            }
            let mut bed = Bed::new(rules(), Box::new(|_| Verdict::Take));
            let wire = client.wire.clone();
            let send = async {
                for piece in wire.chunks(step) {
                    bed.io.write_all(piece).await.unwrap();
                }
            };
            let read = async {
                let mut found = Vec::new();
                for _ in 0..5 {
                    let mut stream = bed.arrivals.recv().await.unwrap();
                    let mut bytes = Vec::new();
                    while let Taken::Bytes(piece) = stream.inlet.next().await {
                        bytes.extend_from_slice(&piece);
                    }
                    found.push(bytes);
                }
                found
            };
            let (found, ()) = futures::join!(read, send);
            assert_eq!(found, wanted);
        });
    }
}
