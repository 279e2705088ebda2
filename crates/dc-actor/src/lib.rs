//! The actor system on kameo: kinds, spawn, names, refs, tell, ask, request, grains.
