//! The distribution protocol: references to hosts, mirrors, authentication, fetch.
