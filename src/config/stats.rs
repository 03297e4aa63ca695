//! The rules of `[stats]`.

use std::time::Duration;

use super::file;
use super::rules::Rules;
use super::settings::Stats;
use super::units::Span;

impl Rules {
    pub(super) fn stats(&mut self, file: &file::Stats) -> Stats {
        let second = Span::seconds(1);
        Stats {
            collect_period: match file.collect_period.0 {
                Duration::ZERO => Duration::ZERO,
                _ => self.span("stats.collect_period", file.collect_period, second),
            },
            disk_period: self.span("stats.disk_period", file.disk_period, second),
            project_quotas: file.project_quotas,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::Config;

    #[test]
    fn the_background_readings_can_be_slower_or_off_but_not_hectic() {
        let period = |text: &str| {
            let text = format!("[stats]\ncollect_period = {text:?}\n");
            let config = Config::parse(&text).map_err(|problems| problems.to_string());
            config.map(|config| config.stats.collect_period)
        };

        assert_eq!(
            Config::default().stats.collect_period,
            Duration::from_secs(10)
        );
        assert_eq!(period("0s").unwrap(), Duration::ZERO);
        assert_eq!(period("1m").unwrap(), Duration::from_secs(60));
        assert!(period("10ms").unwrap_err().contains("must be at least 1s"));
    }
}
