//! Shell patterns over normalised references, as the configuration writes them: for pinned images and pull policies.

use crate::model::Reference;

/// Whether `pattern` means `reference`. A pattern that is itself a reference is normalised first, so that `pause`
/// means `docker.io/library/pause:latest`; in any other `*` stands for any text and `?` for one character.
pub(super) fn means(pattern: &str, reference: &str) -> bool {
    if let Ok(exact) = pattern.parse::<Reference>() {
        return exact.to_string() == reference;
    }
    matches(pattern.as_bytes(), reference.as_bytes())
}

/// Linear in both lengths for each star: a mismatch only ever goes back to the last one.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0_usize, 0_usize);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p = p.saturating_add(1);
            }
            Some(&want) if want == b'?' || want == byte => {
                p = p.saturating_add(1);
                t = t.saturating_add(1);
            }
            _ => {
                let Some((at, from)) = star else {
                    return false;
                };
                p = at.saturating_add(1);
                t = from.saturating_add(1);
                star = Some((at, t));
            }
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|&byte| byte == b'*'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("pause", "docker.io/library/pause:latest", true)]
    #[case("pause", "docker.io/library/pause:3", false)]
    #[case("registry.example/*", "registry.example/team/app:v1", true)]
    #[case("registry.example/*", "registry.example.evil/app:v1", false)]
    #[case("*/pause:*", "registry.k8s.io/pause:3.10", true)]
    #[case("*:v?", "a.b/c:v1", true)]
    #[case("*:v?", "a.b/c:v10", false)]
    #[case("*", "a.b/c:v10", true)]
    #[case("*a*b*c*", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", false)]
    fn patterns_mean_what_a_shell_means(
        #[case] pattern: &str,
        #[case] reference: &str,
        #[case] want: bool,
    ) {
        assert_eq!(means(pattern, reference), want);
    }
}
