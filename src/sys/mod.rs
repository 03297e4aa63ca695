//! The only unsafe code and the only `/proc`: namespaces, mounts, cgroups, pidfds, atomic files.
