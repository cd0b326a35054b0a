//! The client's deadline, from the `grpc-timeout` header
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>).

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Request;

use crate::edge::arrival::Arrival;

/// The response needs time to reach the client, so work ends before the deadline by 1/64 of the timeout, at most 5 ms.
const MARGIN_DIVISOR: u32 = 64;
const MARGIN_MAX: Duration = Duration::from_millis(5);

/// Returns when the response must be sent, if the client set a deadline. The timeout counts from the request's
/// [`Arrival`], or from now for a request without one.
pub fn from_request<T>(request: &Request<T>) -> Option<Instant> {
    let timeout = timeout(request.metadata().as_ref())?;
    let arrival = request.extensions().get::<Arrival>();
    let arrival = arrival.map_or_else(Instant::now, |arrival| arrival.0);
    arrival.checked_add(timeout - (timeout / MARGIN_DIVISOR).min(MARGIN_MAX))
}

/// Returns the client's `grpc-timeout`. A malformed header is ignored.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get("grpc-timeout")?.to_str().ok()?)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Duration>) {
        assert_eq!(parse(text), expected, "{text:?}");
    }

    #[test]
    fn timeouts_parse_as_the_protocol_says() {
        check("100m", Some(Duration::from_millis(100)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        check("1u", Some(Duration::from_micros(1)));
        check("", None);
        check("m", None);
        check("123456789m", None);
        check("+1m", None);
        check("1é", None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_counts_from_the_arrival_of_the_headers() {
        let mut request = Request::new(());
        assert_eq!(from_request(&request), None);
        request.metadata_mut().insert("grpc-timeout", "10S".parse().unwrap());
        let arrival = Instant::now();
        request.extensions_mut().insert(Arrival(arrival));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(
            from_request(&request),
            Some(arrival + Duration::from_secs(10) - MARGIN_MAX)
        );
    }
}
