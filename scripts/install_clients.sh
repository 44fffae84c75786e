#!/bin/sh
# What the clients in other languages need, into build/clients: nothing is installed on the machine.
# Node's packages come from npm; Go, and gRPC for Go and C++, are Debian's, unpacked. What cannot be
# had is said here, and the tests that need it are skipped with the same reason; what was had and does
# not compile is an error.
set -eu
root=build/clients
mkdir -p "$root"

note() { printf '%s\n' "$2" >"$root/$1.missing"; echo "$1: $2"; }

node() {
    rm -f "$root/node.missing"
    command -v npm >/dev/null || { note node "there is no npm"; return; }
    mkdir -p "$root/node"
    cp docs/clients/node/package.json docs/clients/node/package-lock.json "$root/node/"
    cp docs/clients/node/client.mjs "$root/node/"
    (cd "$root/node" && npm ci --no-audit --no-fund --silent) || note node "npm installs nothing here"
}

# debian NAME PACKAGE...: unpack them, and what they need that is not installed, into $root/debian.
debian() {
    name=$1
    shift
    rm -f "$root/$name.missing"
    command -v apt-get >/dev/null || { note "$name" "this is no Debian: there is no apt-get"; return; }
    mkdir -p "$root/archives" "$root/debian"
    wanted=$(apt-get --simulate --no-install-recommends install "$@" 2>/dev/null |
        awk '/^Inst/ {print $2}') || { note "$name" "apt-get does not know $* (apt-get update?)"; return; }
    for package in $wanted; do
        [ -e "$root/archives/$package.unpacked" ] && continue
        (cd "$root/archives" && apt-get --quiet download "$package") >/dev/null 2>&1 ||
            { note "$name" "apt-get cannot download $package"; return; }
        dpkg -x "$root/archives/${package}"_*.deb "$root/debian"
        rm "$root/archives/${package}"_*.deb
        touch "$root/archives/$package.unpacked"
    done
}

protos() {
    mkdir -p "$root/protos/atelier/v1" "$root/protos/google/rpc"
    cp --update protos/atelier/v1/generation.proto "$root/protos/atelier/v1/"
    cp --update .venv/lib/python3*/site-packages/google/rpc/*.proto "$root/protos/google/rpc/"
}

# As much as each Debian package would bring about if it were installed.
usr=$PWD/$root/debian/usr
library=$usr/lib/$(uname -m)-linux-gnu
export LD_LIBRARY_PATH="$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PATH="$usr/bin:$usr/lib/go-1.19/bin:$PATH"

compile_go() {
    [ -e "$root/go.missing" ] && return
    export GO111MODULE=off GOFLAGS= GOPATH="$PWD/$root/go:$usr/share/gocode:/usr/share/gocode"
    export GOCACHE="$PWD/$root/go/cache"
    [ -d "$usr/lib/go-1.19" ] && export GOROOT="$usr/lib/go-1.19"
    mkdir -p "$root/go/src/client"
    known=Matelier/v1/generation.proto=atelier/v1
    protoc --proto_path="$root/protos" --go_out="$root/go/src" --go_opt="$known" \
        --go-grpc_out="$root/go/src" --go-grpc_opt="$known" atelier/v1/generation.proto
    cp docs/clients/go/client.go "$root/go/src/client/"
    go build -o "$root/go/client" client
}

compile_cpp() {
    [ -e "$root/cpp.missing" ] && return
    mkdir -p "$root/cpp/generated"
    files="google/rpc/code google/rpc/status google/rpc/error_details atelier/v1/generation"
    for file in $files; do
        new="$root/cpp/generated/$file.pb.o"
        [ -e "$new" ] && [ "$new" -nt "$root/protos/$file.proto" ] && continue
        protoc --proto_path="$root/protos" --proto_path="$usr/include" \
            --cpp_out="$root/cpp/generated" "$file.proto"
        cxx -c "$root/cpp/generated/$file.pb.cc" -o "$new"
    done
    protoc --proto_path="$root/protos" --proto_path="$usr/include" \
        --grpc_out="$root/cpp/generated" --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" \
        atelier/v1/generation.proto
    cxx docs/clients/cpp/client.cc "$root/cpp/generated/atelier/v1/generation.grpc.pb.cc" \
        "$root"/cpp/generated/google/rpc/*.o "$root"/cpp/generated/atelier/v1/*.o \
        -o "$root/cpp/client" -L"$library" -Wl,--disable-new-dtags -Wl,-rpath,"$library" -Wl,-rpath-link,"$library" \
        -Wl,--copy-dt-needed-entries -lgrpc++ -lprotobuf
}

cxx() { g++ -std=c++17 -O0 -I"$root/cpp/generated" -I"$usr/include" "$@"; }

protos
node
# The 1.5 of Go's protobuf, where gRPC's package would take 1.3: only it knows proto3's `optional`.
debian go golang-go golang-google-grpc-dev golang-github-golang-protobuf-1-5-dev \
    protoc-gen-go-1-5 protoc-gen-go-grpc protobuf-compiler
debian cpp g++ libgrpc++-dev protobuf-compiler protobuf-compiler-grpc
compile_go
compile_cpp
