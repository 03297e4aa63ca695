//! NRI wire and plugin set.
