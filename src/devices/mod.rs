//! CDI and OCI-hook files to edits as model values.
