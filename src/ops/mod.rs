//! How operations run: supervisor, joining, locks, unwinder, deadlines, the live table, gates.
