//! Generates the types of containerd's messages that containerd-shim-protos lacks, without a protoc binary.

fn main() {
    println!("cargo:rerun-if-changed=proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .input("proto/runtimeoptions.proto")
        .cargo_out_dir("proto")
        .run_from_script();
}
