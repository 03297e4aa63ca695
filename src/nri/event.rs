//! What plugins may hear of.

/// Something that happens to a pod or a container, by its number in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A pod has its network and its pause process, and is not visible yet.
    RunPodSandbox = 1,
    /// Nothing runs in a pod any more; its network is still there.
    StopPodSandbox = 2,
    /// A pod is gone.
    RemovePodSandbox = 3,
    /// A container is about to be made.
    CreateContainer = 4,
    /// A container was made.
    PostCreateContainer = 5,
    /// A container's process exists and waits to begin.
    StartContainer = 6,
    /// A container's process has begun.
    PostStartContainer = 7,
    /// A container's limits are about to change.
    UpdateContainer = 8,
    /// A container's limits have changed.
    PostUpdateContainer = 9,
    /// A container's process has ended, or never will be.
    StopContainer = 10,
    /// A container is about to be deleted.
    RemoveContainer = 11,
    /// A pod's sums of resources are about to change.
    UpdatePodSandbox = 12,
    /// A pod's sums of resources have changed.
    PostUpdatePodSandbox = 13,
    /// What plugins made of a container can be refused.
    ValidateContainerAdjustment = 14,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 14] = [
        Self::RunPodSandbox,
        Self::StopPodSandbox,
        Self::RemovePodSandbox,
        Self::CreateContainer,
        Self::PostCreateContainer,
        Self::StartContainer,
        Self::PostStartContainer,
        Self::UpdateContainer,
        Self::PostUpdateContainer,
        Self::StopContainer,
        Self::RemoveContainer,
        Self::UpdatePodSandbox,
        Self::PostUpdatePodSandbox,
        Self::ValidateContainerAdjustment,
    ];
    /// The bits of all events together.
    pub const MASK: u32 = 0x3fff;

    /// Its bit in a subscription.
    pub const fn bit(self) -> u32 {
        1 << (self as u32 - 1)
    }

    /// Its number in the protocol.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The method that tells it.
    pub const fn method(self) -> &'static str {
        match self {
            Self::RunPodSandbox => "RunPodSandbox",
            Self::StopPodSandbox => "StopPodSandbox",
            Self::RemovePodSandbox => "RemovePodSandbox",
            Self::CreateContainer => "CreateContainer",
            Self::PostCreateContainer => "PostCreateContainer",
            Self::StartContainer => "StartContainer",
            Self::PostStartContainer => "PostStartContainer",
            Self::UpdateContainer => "UpdateContainer",
            Self::PostUpdateContainer => "PostUpdateContainer",
            Self::StopContainer => "StopContainer",
            Self::RemoveContainer => "RemoveContainer",
            Self::UpdatePodSandbox => "UpdatePodSandbox",
            Self::PostUpdatePodSandbox => "PostUpdatePodSandbox",
            Self::ValidateContainerAdjustment => "ValidateContainerAdjustment",
        }
    }

    /// Whether plugins built before it had a method of its own hear of it by `StateChange`.
    pub const fn was_state_change(self) -> bool {
        matches!(
            self,
            Self::RunPodSandbox
                | Self::PostUpdatePodSandbox
                | Self::StopPodSandbox
                | Self::RemovePodSandbox
                | Self::PostCreateContainer
                | Self::StartContainer
                | Self::PostStartContainer
                | Self::PostUpdateContainer
                | Self::RemoveContainer
        )
    }

    /// The names of the events in `mask`.
    pub fn names(mask: u32) -> Vec<&'static str> {
        let named = Self::ALL
            .into_iter()
            .filter(|event| mask & event.bit() != 0);
        named.map(Self::method).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_are_those_of_the_protocol_and_together_the_whole_mask() {
        assert_eq!(Event::RunPodSandbox.bit(), 1);
        assert_eq!(Event::ValidateContainerAdjustment.bit(), 1 << 13);
        let all = Event::ALL.iter().fold(0, |mask, event| mask | event.bit());
        assert_eq!(all, Event::MASK);
        assert_eq!(
            Event::ALL
                .iter()
                .filter(|event| event.was_state_change())
                .count(),
            9
        );
        assert_eq!(Event::names(0b101), ["RunPodSandbox", "RemovePodSandbox"]);
    }
}
