//! DNS and HTTP/1 on the page of metrics.

use prometheus::proto::{Metric, MetricType};

use super::flows::Observations;
use super::render::{Page, count, histogram, sum};
use crate::flow::measured::LANES;
use crate::flow::messages::Times;
use crate::kernel::messages::{DnsTotals, HttpServer, HttpTotals, Messages};

/// Adds what there is; counts of kept flows are scaled by `weight` to stand for all.
pub(super) fn families(page: &mut Page, messages: &Messages, weight: f64) {
    if let Some(dns) = &messages.dns {
        dns_families(page, dns, weight);
    }
    if let Some(http) = &messages.http {
        http_families(page, http, weight);
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

fn dns_families(page: &mut Page, dns: &DnsTotals, weight: f64) {
    let queries = dns.queries.iter().map(|(kind, n)| sum(&[("type", kind)], *n as f64 * weight));
    page.counter(
        "netmon_dns_queries_total",
        "DNS queries, those sent again not counted twice; without a response: the difference to netmon_dns_responses_total.",
        queries.collect(),
    );
    let responses = dns.responses.iter().map(|(rcode, n)| sum(&[("rcode", rcode)], *n as f64 * weight));
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

fn http_families(page: &mut Page, http: &HttpTotals, weight: f64) {
    let of_server = |server: &HttpServer| {
        let class =
            |(class, n): (&String, &u64)| sum(&[("dst", &server.dst), ("class", class)], *n as f64 * weight);
        server.responses.iter().map(class).collect::<Vec<_>>()
    };
    page.counter(
        "netmon_http_responses_total",
        "HTTP/1 responses by server; servers beyond export.prometheus.top_destinations are other.",
        http.servers.iter().flat_map(of_server).collect(),
    );
    page.family(
        "netmon_http_response_seconds",
        "From an HTTP/1 request to its response, seconds.",
        MetricType::HISTOGRAM,
        http.servers.iter().map(|server| times(&[("dst", &server.dst)], &server.latency)).collect(),
    );
}
