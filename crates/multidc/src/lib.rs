//! Actors across datacenters: spawn, name and message actors in any of your datacenters.
