//! A page as text, in the OpenMetrics format.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue,
    GaugeValueEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::page::{Family, Number, Page, Series, Values};
use super::{Buckets, Source};
use crate::model::{Error, Result};

/// What the text is, for the header of an answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// In front of every name.
const PREFIX: &str = "podwright";

/// Everything that metrics are read from. Cloning gives another handle.
#[derive(Clone)]
pub struct Sources(Arc<Vec<Box<dyn Source>>>);

impl Sources {
    /// A page is read from `sources`, in their order.
    pub fn new(sources: Vec<Box<dyn Source>>) -> Self {
        Self(Arc::new(sources))
    }

    /// What is true now.
    ///
    /// # Errors
    /// `Internal` where the text cannot be written.
    pub fn scrape_blocking(&self) -> Result<String> {
        let mut page = Page::default();
        for source in self.0.iter() {
            source.read_blocking(&mut page);
        }
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(Read(page.finish())));
        let mut text = String::new();
        encode(&mut text, &registry)
            .map_err(|error| Error::internal("write the metrics as text").caused_by(error))?;
        Ok(text)
    }
}

/// A page that was read.
#[derive(Debug)]
struct Read(Vec<Family>);

impl Collector for Read {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let kind = match family.values {
                Values::Counter(_) => MetricType::Counter,
                Values::Gauge(_) => MetricType::Gauge,
                Values::Histogram(_) => MetricType::Histogram,
            };
            let to = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            match &family.values {
                Values::Counter(series) => each(to, series, |to, number| {
                    to.encode_counter::<NoLabelSet, _, f64>(number, None)
                })?,
                Values::Gauge(series) => each(to, series, |to, number| to.encode_gauge(number))?,
                Values::Histogram(series) => each(to, series, |to, buckets: &Buckets| {
                    let counts = buckets.counts.as_slice();
                    let all = counts.iter().map(|(_bound, count)| count).sum();
                    to.encode_histogram::<NoLabelSet>(buckets.sum.as_secs_f64(), all, counts, None)
                })?,
            }
        }
        Ok(())
    }
}

fn each<V>(
    mut to: MetricEncoder<'_>,
    series: &[Series<V>],
    write: impl Fn(&mut MetricEncoder<'_>, &V) -> fmt::Result,
) -> fmt::Result {
    for one in series {
        let labels = one.labels.as_slice();
        if labels.is_empty() {
            write(&mut to, &one.value)?;
        } else {
            write(&mut to.encode_family(&labels)?, &one.value)?;
        }
    }
    Ok(())
}

impl EncodeCounterValue for Number {
    fn encode(&self, encoder: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(count) => EncodeCounterValue::encode(count, encoder),
            Self::Seconds(seconds) => EncodeCounterValue::encode(seconds, encoder),
        }
    }
}

impl EncodeGaugeValue for Number {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(count) => EncodeGaugeValue::encode(count, encoder),
            Self::Seconds(seconds) => EncodeGaugeValue::encode(seconds, encoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Example;

    impl Source for Example {
        fn read_blocking(&self, page: &mut Page) {
            page.counter(
                "things",
                "Things that were seen.",
                [
                    Series::of(&[("host", "https://a.b")], 3_u64),
                    Series::of(&[("host", "a\"b\\c\nd 1")], 4_u64),
                ],
            );
            let age = Duration::from_millis(1500);
            page.gauge("age_seconds", "The age.", [Series::plain(age)]);
            let counts = vec![(0.5, 1), (f64::INFINITY, 2)];
            let sum = Duration::from_secs(7);
            page.histogram(
                "took_seconds",
                "The time.",
                [Series::plain(Buckets { counts, sum })],
            );
        }
    }

    #[test]
    fn a_page_is_written_as_open_metrics_whatever_a_label_holds() {
        let text = Sources::new(vec![Box::new(Example)])
            .scrape_blocking()
            .unwrap();

        insta::assert_snapshot!(text, @r#"
        # HELP podwright_things Things that were seen.
        # TYPE podwright_things counter
        podwright_things_total{host="https://a.b"} 3
        podwright_things_total{host="a\"b\\c\nd 1"} 4
        # HELP podwright_age_seconds The age.
        # TYPE podwright_age_seconds gauge
        podwright_age_seconds 1.5
        # HELP podwright_took_seconds The time.
        # TYPE podwright_took_seconds histogram
        podwright_took_seconds_sum 7.0
        podwright_took_seconds_count 3
        podwright_took_seconds_bucket{le="0.5"} 1
        podwright_took_seconds_bucket{le="+Inf"} 3
        # HELP podwright_metrics_left_out Series that this page had no room for.
        # TYPE podwright_metrics_left_out gauge
        podwright_metrics_left_out 0
        # EOF
        "#);
    }
}
