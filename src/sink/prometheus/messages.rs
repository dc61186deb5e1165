//! DNS and HTTP/1 on the page of metrics.

use std::collections::HashMap;

use prometheus::proto::{Metric, MetricType};

use super::flows::Observations;
use super::page::{Page, count, histogram, sum};
use crate::flow::measured::LANES;
use crate::flow::messages::Times;
use crate::kernel::messages::{DnsTotals, HttpServer, HttpTotals, Messages};

/// Counts of kept flows, scaled to stand for all: what is new at each look by the weight that a kept flow has then.
#[derive(Debug, Default)]
pub(super) struct Scaled(HashMap<(String, String), (u64, f64)>);

impl Scaled {
    /// Adds what there is to the page.
    pub(super) fn families(&mut self, page: &mut Page, messages: &Messages, weight: f64) {
        let mut look = Look { before: std::mem::take(&mut self.0), now: HashMap::new(), weight };
        if let Some(dns) = &messages.dns {
            dns_families(page, dns, &mut look);
        }
        if let Some(http) = &messages.http {
            http_families(page, http, &mut look);
        }
        // Servers that have lost their places are forgotten.
        self.0 = look.now;
    }
}

struct Look {
    before: HashMap<(String, String), (u64, f64)>,
    now: HashMap<(String, String), (u64, f64)>,
    weight: f64,
}

impl Look {
    fn scaled(&mut self, of: &str, kind: &str, count: u64) -> f64 {
        let series = (of.to_owned(), kind.to_owned());
        // A count that has become less has begun anew.
        let before = self.before.get(&series).copied().filter(|(last, _)| *last <= count);
        let (last, sum) = before.unwrap_or_default();
        let sum = sum + (count - last) as f64 * self.weight;
        self.now.insert(series, (count, sum));
        sum
    }
}

fn times(pairs: &[(&str, &str)], times: &Times) -> Metric {
    let bounds: Vec<f64> = times.bounds_us.iter().map(|us| f64::from(*us) / 1e6).collect();
    let mut observed = Observations { buckets: [0; LANES], sum_seconds: times.sum_us as f64 / 1e6 };
    for (bucket, count) in observed.buckets.iter_mut().zip(&times.counts) {
        *bucket = *count;
    }
    histogram(pairs, &bounds, &observed)
}

fn dns_families(page: &mut Page, dns: &DnsTotals, look: &mut Look) {
    let queries = dns.queries.iter().map(|(kind, n)| sum(&[("type", kind)], look.scaled("query", kind, *n)));
    page.counter(
        "netmon_dns_queries_total",
        "DNS queries, those sent again not counted twice; without a response: the difference to netmon_dns_responses_total.",
        queries.collect(),
    );
    let responses =
        dns.responses.iter().map(|(rcode, n)| sum(&[("rcode", rcode)], look.scaled("response", rcode, *n)));
    page.counter("netmon_dns_responses_total", "Responses to these queries.", responses.collect());
    page.family(
        "netmon_dns_latency_seconds",
        "From a DNS query to its response, seconds.",
        MetricType::HISTOGRAM,
        vec![times(&[], &dns.latency)],
    );
    page.counter(
        "netmon_dns_irregular_total",
        "DNS messages sent again, unmatched by a query, malformed, not looked at (TCP segments), or without a place to wait.",
        [
            ("repeated", dns.repeated),
            ("unmatched", dns.unmatched),
            ("malformed", dns.malformed),
            ("unseen", dns.unseen),
            ("lost", dns.lost),
        ]
        .map(|(kind, n)| count(&[("kind", kind)], n))
        .to_vec(),
    );
}

fn http_families(page: &mut Page, http: &HttpTotals, look: &mut Look) {
    let mut of_server = |server: &HttpServer| {
        let class = |(class, n): (&String, &u64)| {
            sum(&[("dst", &server.dst), ("class", class)], look.scaled(&server.dst, class, *n))
        };
        server.responses.iter().map(class).collect::<Vec<_>>()
    };
    page.counter(
        "netmon_http_responses_total",
        "HTTP/1 responses by server; servers beyond export.prometheus.top_destinations are other.",
        http.servers.iter().flat_map(&mut of_server).collect(),
    );
    page.family(
        "netmon_http_response_seconds",
        "From an HTTP/1 request to its response, seconds.",
        MetricType::HISTOGRAM,
        http.servers.iter().map(|server| times(&[("dst", &server.dst)], &server.latency)).collect(),
    );
}
