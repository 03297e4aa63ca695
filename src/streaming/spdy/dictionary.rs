//! The preset dictionary of SPDY/3 header blocks (SPDY protocol draft 3, section 2.6.10.1), built from its two parts.

use std::sync::LazyLock;

/// Names and values that are each preceded by their length in the dictionary.
const COUNTED: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// What follows them, uncounted.
const PLAIN: &str = "1001012012022052063003023033043053063074024054064074084094104114124134144154164175\
    02504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Ba\
    d Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 No\
    t Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov D\
    ec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,imag\
    e/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,p\
    ublicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary's 1423 bytes.
pub(super) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1_423);
    for word in COUNTED.split_ascii_whitespace() {
        let word = word.replace('_', " ");
        bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or_default().to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(PLAIN.as_bytes());
    bytes
});

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum that zlib names the dictionary by.
    fn adler32(bytes: &[u8]) -> u32 {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in bytes {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        (b << 16) | a
    }

    #[test]
    fn it_is_the_one_that_peers_name() {
        assert_eq!(DICTIONARY.len(), 1_423);
        assert_eq!(adler32(&DICTIONARY), 0xE3C6_A7C2);
    }
}
