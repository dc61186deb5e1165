//! A page of metrics: families, each with its description, and their series. From counts to the text format.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Quantile,
    Summary as ProtoSummary,
};
use prometheus::{Encoder, TextEncoder};

use super::flows::Observations;
use super::summary::Summary;

/// A page under way.
#[derive(Default)]
pub(super) struct Page(Vec<MetricFamily>);

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let make = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    pairs.iter().map(make).collect()
}

impl Page {
    pub(super) fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.into());
        family.set_help(help.into());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, metrics: Vec<Metric>) {
        self.family(name, help, MetricType::COUNTER, metrics);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, metrics: Vec<Metric>) {
        self.family(name, help, MetricType::GAUGE, metrics);
    }

    pub(super) fn summary(&mut self, name: &str, help: &str, summary: &Summary) {
        let mut proto = ProtoSummary::default();
        proto.set_sample_count(summary.count());
        proto.set_sample_sum(summary.sum_seconds());
        let quantile = |share: f64| {
            let mut quantile = Quantile::default();
            quantile.set_quantile(share);
            quantile.set_value(summary.quantile(share));
            quantile
        };
        proto.set_quantile([0.5, 0.9, 0.99, 0.999].map(quantile).to_vec());
        let mut metric = Metric::default();
        metric.set_summary(proto);
        self.family(name, help, MetricType::SUMMARY, vec![metric]);
    }

    /// As Prometheus reads it.
    pub(super) fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&self.0, &mut text)?;
        Ok(text)
    }
}

pub(super) fn count(pairs: &[(&str, &str)], value: u64) -> Metric {
    sum(pairs, value as f64)
}

pub(super) fn sum(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::default();
    metric.set_label(labels(pairs));
    metric.set_counter(counter);
    metric
}

pub(super) fn level(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::default();
    metric.set_label(labels(pairs));
    metric.set_gauge(gauge);
    metric
}

/// A histogram with these upper bounds; observations beyond the last come after it.
pub(super) fn histogram(pairs: &[(&str, &str)], bounds: &[f64], observed: &Observations) -> Metric {
    let mut histogram = Histogram::default();
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (bound, count) in bounds.iter().zip(observed.buckets) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    histogram.set_bucket(buckets);
    // The encoder adds the bucket of all, `+Inf`.
    histogram.set_sample_count(observed.buckets.iter().sum());
    histogram.set_sample_sum(observed.sum_seconds);
    let mut metric = Metric::default();
    metric.set_label(labels(pairs));
    metric.set_histogram(histogram);
    metric
}
