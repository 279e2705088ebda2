//! The derives of multidc: RemoteActor and RemoteMessage.
