# Where no registry answers: a server's binary of this machine with its loader and libc, laid out
# under root/ by `cargo xtask integration`. The binary stands where the official image has it.
FROM scratch
COPY root/ /
EXPOSE 2379 2380
CMD ["/usr/local/bin/etcd"]
