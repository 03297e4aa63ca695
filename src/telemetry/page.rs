//! One scrape's metrics as data.

use std::time::Duration;

/// Series of one name, at most. Above what any table behind a label holds; only a mistake of ours gets here.
const SERIES: usize = 2_048;
/// Bytes of a label's value.
const LABEL_BYTES: usize = 256;

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count, or bytes.
    Whole(u64),
    /// Seconds.
    Seconds(f64),
}

impl From<u64> for Number {
    fn from(count: u64) -> Self {
        Self::Whole(count)
    }
}

impl From<usize> for Number {
    fn from(count: usize) -> Self {
        Self::Whole(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

impl From<bool> for Number {
    fn from(is_so: bool) -> Self {
        Self::Whole(is_so.into())
    }
}

impl From<Duration> for Number {
    fn from(span: Duration) -> Self {
        Self::Seconds(span.as_secs_f64())
    }
}

/// How long things took: how many of them within each bound, none counted twice; the last bound is infinite.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// The bounds in seconds, and what fell between one and the one before.
    pub counts: Vec<(f64, u64)>,
    /// All of it together.
    pub sum: Duration,
}

/// One value of a metric, told from the others of its name by its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Series<V> {
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) value: V,
}

impl<V> Series<V> {
    /// The only series of its name.
    pub fn plain(value: impl Into<V>) -> Self {
        Self {
            labels: Vec::new(),
            value: value.into(),
        }
    }

    /// A series with `labels`, whose values are cut where they are long.
    pub fn of(labels: &[(&'static str, &str)], value: impl Into<V>) -> Self {
        let labels = labels.iter();
        Self {
            labels: labels
                .map(|(name, text)| (*name, cut(text, LABEL_BYTES).to_owned()))
                .collect(),
            value: value.into(),
        }
    }
}

/// At most so many `bytes` of `text`, cut between characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    Counter(Vec<Series<Number>>),
    Gauge(Vec<Series<Number>>),
    Histogram(Vec<Series<Buckets>>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) values: Values,
}

/// What sources write. Names go without `podwright_` in front, counters without `_total` behind: both are put there.
#[derive(Debug, Default)]
pub struct Page {
    pub(super) families: Vec<Family>,
    left_out: u64,
}

impl Page {
    /// Something that only grows, until a restart.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        series: impl IntoIterator<Item = Series<Number>>,
    ) {
        let series = self.bounded(series);
        self.enter(name, help, Values::Counter(series));
    }

    /// Something that is as it is now.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        series: impl IntoIterator<Item = Series<Number>>,
    ) {
        let series = self.bounded(series);
        self.enter(name, help, Values::Gauge(series));
    }

    /// How long things took.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        series: impl IntoIterator<Item = Series<Buckets>>,
    ) {
        let series = self.bounded(series);
        self.enter(name, help, Values::Histogram(series));
    }

    /// Says what did not fit, last of all.
    pub(super) fn finish(mut self) -> Vec<Family> {
        let left_out = self.left_out;
        self.gauge(
            "metrics_left_out",
            "Series that this page had no room for.",
            [Series::plain(left_out)],
        );
        self.families
    }

    fn bounded<V>(&mut self, series: impl IntoIterator<Item = Series<V>>) -> Vec<Series<V>> {
        let mut series = series.into_iter();
        let kept: Vec<_> = series.by_ref().take(SERIES).collect();
        let rest = u64::try_from(series.count()).unwrap_or(u64::MAX);
        self.left_out = self.left_out.saturating_add(rest);
        kept
    }

    fn enter(&mut self, name: &'static str, help: &'static str, values: Values) {
        self.families.push(Family { name, help, values });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_so_many_series_and_the_page_says_how_many_more_there_were() {
        let mut page = Page::default();
        let series = (0..SERIES + 7).map(|n| Series::of(&[("n", &n.to_string())], n));
        page.gauge("many", "Too many.", series);

        let families = page.finish();

        let [many, left_out] = families.as_slice() else {
            panic!("{families:?}")
        };
        let Values::Gauge(kept) = &many.values else {
            panic!("{many:?}")
        };
        assert_eq!(kept.len(), SERIES);
        assert_eq!(left_out.values, Values::Gauge(vec![Series::plain(7_u64)]));
    }

    #[test]
    fn a_long_label_is_cut_between_characters() {
        let series: Series<Number> = Series::of(&[("host", &"ü".repeat(LABEL_BYTES))], 1_u64);

        assert_eq!(series.labels[0].1, "ü".repeat(LABEL_BYTES / 2));
    }
}
