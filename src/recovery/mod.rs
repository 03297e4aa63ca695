//! Records and containerd's truth to repairs: one plan for start, reconnect and the janitor.
