//! The CNI runtime side: configuration, plugins, attachments, network namespaces.
