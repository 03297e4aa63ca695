//! What a group moved to and from disks.

/// What was moved on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    /// Bytes by the kernel's own word for what was done; on v2 only reading and writing.
    pub(super) by_operation: Vec<(String, u64)>,
}

/// The file `io.stat` of v2. Devices that nothing was moved on may stand there without numbers.
pub(super) fn of_v2(text: &str) -> Vec<Disk> {
    text.lines().filter_map(v2_line).collect()
}

fn v2_line(line: &str) -> Option<Disk> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = numbers(device)?;
    let value = |key: &str| -> Option<u64> {
        let mut pairs = rest
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key)?.1.parse().ok()
    };
    let (read_bytes, written_bytes) = (value("rbytes")?, value("wbytes")?);
    Some(Disk {
        major,
        minor,
        reads: value("rios")?,
        writes: value("wios")?,
        read_bytes,
        written_bytes,
        by_operation: vec![
            ("Read".to_owned(), read_bytes),
            ("Write".to_owned(), written_bytes),
        ],
    })
}

/// The files of v1 that count bytes and operations.
pub(super) fn of_v1(bytes: &str, operations: &str) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    for (device, operation, amount) in bytes.lines().filter_map(v1_line) {
        let Some(disk) = disk_of(&mut disks, device) else {
            continue;
        };
        match operation {
            "Read" => disk.read_bytes = amount,
            "Write" => disk.written_bytes = amount,
            _ => {}
        }
        disk.by_operation.push((operation.to_owned(), amount));
    }
    for (device, operation, amount) in operations.lines().filter_map(v1_line) {
        let Some(disk) = disk_of(&mut disks, device) else {
            continue;
        };
        match operation {
            "Read" => disk.reads = amount,
            "Write" => disk.writes = amount,
            _ => {}
        }
    }
    disks
}

fn disk_of(disks: &mut Vec<Disk>, (major, minor): (u32, u32)) -> Option<&mut Disk> {
    let is_it = |disk: &Disk| disk.major == major && disk.minor == minor;
    if !disks.iter().any(is_it) {
        disks.push(Disk {
            major,
            minor,
            ..Disk::default()
        });
    }
    disks.iter_mut().find(|disk| is_it(disk))
}

/// The files of v1 that may hold the count; the first that names a device does.
pub(super) fn first_with_devices(texts: impl IntoIterator<Item = String>) -> String {
    let has_devices = |text: &String| text.lines().any(|line| v1_line(line).is_some());
    texts.into_iter().find(has_devices).unwrap_or_default()
}

fn v1_line(line: &str) -> Option<((u32, u32), &str, u64)> {
    let mut words = line.split_whitespace();
    let device = numbers(words.next()?)?;
    let operation = words.next()?;
    Some((device, operation, words.next()?.parse().ok()?))
}

fn numbers(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_has_a_line_for_each_device() {
        let disks =
            of_v2("254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:0 \nbroken\n");

        assert_eq!(disks.len(), 1);
        assert_eq!((disks[0].major, disks[0].minor), (254, 0));
        assert_eq!((disks[0].reads, disks[0].written_bytes), (1, 20));
        assert_eq!(disks[0].by_operation[1], ("Write".to_owned(), 20));
    }

    #[test]
    fn v1_has_a_line_for_each_device_and_operation() {
        let bytes = "254:0 Read 10\n254:0 Write 20\n254:0 Total 30\n8:1 Read 5\nTotal 35\n";
        let disks = of_v1(bytes, "254:0 Read 1\n254:0 Write 2\nTotal 3\n");

        assert_eq!(disks.len(), 2);
        assert_eq!(
            (disks[0].reads, disks[0].writes, disks[0].read_bytes),
            (1, 2, 10)
        );
        assert_eq!(disks[0].by_operation.len(), 3);
        assert_eq!(
            (disks[1].minor, disks[1].read_bytes, disks[1].reads),
            (1, 5, 0)
        );
    }

    #[test]
    fn the_first_file_that_counts_is_taken() {
        let texts = ["Total 0\n", "8:0 Read 1\nTotal 1\n", "8:0 Read 2\n"];
        assert!(first_with_devices(texts.map(str::to_owned)).starts_with("8:0 Read 1"));
        assert_eq!(first_with_devices(["Total 0\n".to_owned()]), "");
    }
}
