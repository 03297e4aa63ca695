//! TOML and flags to validated, typed settings; each key declared `live` or `restart`.
