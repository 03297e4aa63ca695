//! passwd(5) and group(5) of an image: hostile text, read by fixed rules, never by a system library.

use crate::model::{Error, Result};

/// The longest account file that is read.
pub const MAX_FILE_BYTES: usize = 10 << 20;
const MAX_LINE_BYTES: usize = 64 << 10;
/// The last id that a container may use.
pub(super) const MAX_ID: u32 = i32::MAX.unsigned_abs();

/// The account files of one image; empty text where a file does not exist.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounts<'a> {
    /// Text of `/etc/passwd`.
    pub passwd: &'a str,
    /// Text of `/etc/group`.
    pub group: &'a str,
}

/// One line of passwd.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User<'a> {
    pub(super) name: &'a str,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// One line of group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group<'a> {
    pub(super) name: &'a str,
    pub(super) gid: u32,
    pub(super) members: &'a str,
}

impl<'a> Accounts<'a> {
    /// Refuses files that no image needs to have.
    pub(super) fn check(&self) -> Result<()> {
        for (name, text) in [("/etc/passwd", self.passwd), ("/etc/group", self.group)] {
            if text.len() > MAX_FILE_BYTES {
                return Err(Error::invalid(format!(
                    "{name} of the image: longer than {MAX_FILE_BYTES} bytes"
                )));
            }
            if text.split('\n').any(|line| line.len() > MAX_LINE_BYTES) {
                return Err(Error::invalid(format!(
                    "{name} of the image: a line is longer than {MAX_LINE_BYTES} bytes"
                )));
            }
        }
        Ok(())
    }

    /// The well-formed lines of passwd. A line whose ids are no ids is none: a lookup must not end at a guess.
    pub(super) fn users(&self) -> impl Iterator<Item = User<'a>> + use<'a> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let _password = fields.next()?;
            Some(User {
                name,
                uid: id(fields.next()?)?,
                gid: id(fields.next()?)?,
            })
        })
    }

    /// The well-formed lines of group.
    pub(super) fn groups(&self) -> impl Iterator<Item = Group<'a>> + use<'a> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let _password = fields.next()?;
            Some(Group {
                name,
                gid: id(fields.next()?)?,
                members: fields.next().unwrap_or_default(),
            })
        })
    }
}

impl Group<'_> {
    pub(super) fn lists(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

/// A decimal id in its only spelling, up to [`MAX_ID`].
pub(super) fn id(text: &str) -> Option<u32> {
    let is_canonical =
        text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    let id = text.parse().ok().filter(|id| *id <= MAX_ID);
    id.filter(|_| is_canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_lines_are_no_accounts() {
        let accounts = Accounts {
            passwd: "# comment\n\nroot:x:0:0:root:/root:/bin/sh\r\nshort:x:1\nbig:x:4294967296:0::\nneg:x:-1:0::\nword:x:\
                     a:0::\n:x:5:5::\nok:x:7:8",
            group: "root:x:0:\nbad:x:zero:ok\nwheel:x:10:ok, other\nbare:x:11",
        };

        let users: Vec<_> = accounts.users().collect();
        let groups: Vec<_> = accounts.groups().collect();

        let of = |name, uid, gid| User { name, uid, gid };
        assert_eq!(users, [of("root", 0, 0), of("ok", 7, 8)]);
        assert_eq!(
            groups.iter().map(|group| group.gid).collect::<Vec<_>>(),
            [0, 10, 11]
        );
        assert!(groups[1].lists("other") && !groups[1].lists("oth"));
    }

    #[test]
    fn oversize_files_and_lines_are_refused() {
        let line = "a".repeat(MAX_LINE_BYTES);
        let longer = "a".repeat(MAX_LINE_BYTES + 1);
        let file = "x\n".repeat(MAX_FILE_BYTES / 2 + 1);
        let passwd = |passwd| Accounts { passwd, group: "" }.check();
        let group = |group| Accounts { passwd: "", group }.check();

        assert!(passwd(&line).is_ok());
        assert!(passwd(&longer).is_err());
        assert!(group(&file[..MAX_FILE_BYTES]).is_ok());
        assert!(group(&file).is_err());
    }

    #[test]
    fn an_id_has_one_spelling() {
        assert_eq!(id("0"), Some(0));
        assert_eq!(id("2147483647"), Some(MAX_ID));
        for bad in [
            "",
            "00",
            "01",
            "+0",
            "-1",
            " 0",
            "0x0",
            "2147483648",
            "4294967296",
            "1e3",
        ] {
            assert_eq!(id(bad), None, "{bad:?}");
        }
    }
}
