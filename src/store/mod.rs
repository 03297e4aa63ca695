//! Records and names on disk.
