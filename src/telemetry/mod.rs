//! Metrics, timelines, tracing export.
