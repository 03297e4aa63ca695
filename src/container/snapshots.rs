//! The snapshots of a container: their names, and what keeps them.

use crate::model::ContainerId;
pub(super) use crate::sandbox::snapshots::labels;

const IMAGE: &str = "-image-";

/// The name of the view that the container's image volume number `at` shows.
pub(super) fn of_image_volume(id: &ContainerId, at: usize) -> String {
    format!("{id}{IMAGE}{at}")
}

/// Whose snapshot `name` is; `None` where it is none of a container of ours.
pub fn owner(name: &str) -> Option<ContainerId> {
    let (id, number) = name.split_once(IMAGE).unwrap_or((name, "0"));
    let is_number = number.parse::<usize>().is_ok();
    id.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_tells_its_container() {
        let id: ContainerId = "ab".repeat(32).parse().unwrap();

        assert_eq!(owner(id.as_str()), Some(id.clone()));
        assert_eq!(owner(&of_image_volume(&id, 12)), Some(id.clone()));
        for other in [
            format!("{id}-image-x"),
            format!("{id}-x"),
            "sha256:ab".to_owned(),
        ] {
            assert_eq!(owner(&other), None, "{other}");
        }
    }
}
