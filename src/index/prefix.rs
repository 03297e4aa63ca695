//! Lookup by unique prefix, which crictl depends on.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

use crate::model::{Error, Result};

/// The entry whose key `text` is, or is the one prefix of.
pub(super) fn unique<'a, K, V>(
    map: &'a BTreeMap<K, V>,
    text: &str,
    noun: &str,
) -> Result<Option<(&'a K, &'a V)>>
where
    K: Borrow<str> + Ord,
{
    if text.is_empty() {
        return Err(Error::invalid(format!("{noun} id: empty")));
    }
    if text.len() > 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    // Keys sort as their text does, so those with the prefix lie together.
    let from = map.range::<str, _>((Bound::Included(text), Bound::Unbounded));
    let mut found = from.take_while(|(key, _)| (*key).borrow().starts_with(text));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(Some(one)),
        (Some(one), Some(_)) if one.0.borrow() == text => Ok(Some(one)),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "{noun} id {text:?}: several begin so; give more digits"
        ))),
        (None, _) => Ok(None),
    }
}
