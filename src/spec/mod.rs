//! Pure functions from model and host facts to the OCI runtime spec.
