package main

// The BPF programs and their Go bindings. The output is committed, so building
// needs no clang: `make generate` makes it anew with Debian's clang-19 and
// libbpf-dev, and `make test` fails when it differs.

//go:generate go tool bpf2go -cc clang-19 -strip testdata/strip.sh -target amd64,arm64 -cflags "-O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -output-dir bpf -go-package bpf -type header -type event -type record -type op -type area -type flag -type losses Perf bpf/perf.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip testdata/strip.sh -target amd64,arm64 -cflags "-O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -output-dir bpf -go-package bpf -type object_event -type object_op -type object_kind -type object_flag Objects bpf/objects.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip testdata/strip.sh -target amd64,arm64 -cflags "-O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -output-dir bpf -go-package bpf -no-global-types Legacy bpf/legacy.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip testdata/strip.sh -target amd64,arm64 -cflags "-O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -output-dir bpf -go-package bpf -no-global-types OldObjects bpf/legacy_objects.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip testdata/strip.sh -target amd64,arm64 -cflags "-O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -output-dir bpf -go-package bpf -type charge_event -type charge_flag -type charger Chargers bpf/chargers.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip testdata/strip.sh -target amd64,arm64 -cflags "-O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -output-dir bpf -go-package bpf -no-global-types OldChargers bpf/legacy_chargers.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip testdata/strip.sh -target amd64,arm64 -cflags "-O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -output-dir bpf -go-package bpf -type process -type process_flag -type buffer -type buffer_flag Snapshot bpf/snapshot.bpf.c
