//! Names of the gRPC service, in one place.

/// Full name of the service.
pub(crate) const SERVICE_NAME: &str = "multidc.link.v1.Link";

/// Path of its one method.
pub(crate) const PATH: &str = "/multidc.link.v1.Link/Lane";
