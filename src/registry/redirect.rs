//! Where redirects lead.

use reqwest::header::HeaderValue;
use url::Url;

use super::failure::{Failure, shown};
use crate::model::Error;

/// Where a redirect leads, if it may be followed. A user name in it is dropped: it would become credentials.
pub(super) fn target(from: &Url, target: &HeaderValue) -> Result<Url, Failure> {
    let refused = |why: &str| {
        Failure::transport(Error::unavailable(format!(
            "{}: redirect {why}",
            shown(from)
        )))
    };
    let mut url = target
        .to_str()
        .ok()
        .and_then(|text| from.join(text).ok())
        .ok_or_else(|| refused("to something that is not a URL"))?;
    match (from.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => return Err(refused("from https to plain http refused")),
        _ => return Err(refused("to a scheme that is neither http nor https")),
    }
    let stripped = url.set_username("").and(url.set_password(None));
    stripped.map_err(|()| refused("to a URL without a host"))?;
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "https://a.tld/x",
        "https://b.tld/y?sig=1",
        Some("https://b.tld/y?sig=1")
    )]
    #[case("https://a.tld/x", "/y", Some("https://a.tld/y"))]
    #[case("http://a.tld/x", "http://b.tld/y", Some("http://b.tld/y"))]
    #[case("https://a.tld/x", "https://u:p@b.tld/y", Some("https://b.tld/y"))]
    #[case("https://a.tld/x", "http://a.tld/x", None)]
    #[case("https://a.tld/x", "file:///etc/shadow", None)]
    #[case("https://a.tld/x", "https://", None)]
    fn redirects_keep_tls_and_lose_users(
        #[case] from: &str,
        #[case] location: &str,
        #[case] want: Option<&str>,
    ) {
        let found = target(
            &Url::parse(from).unwrap(),
            &HeaderValue::from_str(location).unwrap(),
        );
        assert_eq!(found.ok().map(String::from).as_deref(), want);
    }
}
