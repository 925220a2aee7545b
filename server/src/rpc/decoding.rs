//! Requests that tonic itself refuses before a handler sees them: counted, and told as what they are.

use tonic::codegen::http::{HeaderValue, Response};
use tonic::{Code, Status};

use crate::counters::Counters;
use crate::rejection::Rejection;

/// Looks at the status of a response without a body. When tonic could not decode the request, counts it, and
/// turns "internal error" into "invalid argument": the bytes were the caller's.
pub(crate) fn retell_decoding_errors<B>(
    counters: &Counters,
    mut response: Response<B>,
) -> Response<B> {
    // Fast path: a stream that runs has its status in the trailers, not here.
    if !response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    // What our own handlers refuse is counted there; they never say INTERNAL or OUT_OF_RANGE.
    let Some(rejection) = Rejection::from_decoder(status.code(), status.message()) else {
        return response;
    };
    counters.reject(rejection.reason);
    if status.code() == Code::Internal {
        let code = HeaderValue::from(Code::InvalidArgument as i32);
        response.headers_mut().insert(Status::GRPC_STATUS, code);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::rejection::Reason;

    fn check(given: &Status, code: Code, reason: Option<Reason>) {
        let counters = Counters::default();
        let response = retell_decoding_errors(&counters, given.clone().into_http::<()>());
        let told = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(told.code(), code);
        assert_eq!(told.message(), given.message());
        let counted = counters.snapshot().into_iter().filter(|c| c.count > 0);
        let counted: Vec<String> = counted.map(|c| c.name).collect();
        let expected = reason.map(|reason| format!("rejected.{}", reason.name()));
        assert_eq!(counted, Vec::from_iter(expected));
    }

    #[test]
    fn undecodable_requests_are_the_callers_fault() {
        let text = "failed to decode Protobuf message: invalid varint";
        let given = Status::internal(text);
        check(&given, Code::InvalidArgument, Some(Reason::Malformed));
        let given = Status::out_of_range("Error, decoded message length too large");
        check(&given, Code::OutOfRange, Some(Reason::Oversized));
    }

    #[test]
    fn other_statuses_are_left_alone() {
        check(&Status::unavailable("x"), Code::Unavailable, None);
        check(&Status::internal("x"), Code::Internal, None);
        check(&Status::invalid_argument("x"), Code::InvalidArgument, None);
    }
}
