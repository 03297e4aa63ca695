//! The lifecycles over the fake world: every call broken in turn, in every way, and nothing left.

mod behaviour;
mod broken;
mod checkpoints;
mod events;
mod handout;
mod house;
mod network;
mod restores;
