//! Generates the guest protocol's types from `proto/guest.proto`, without a protoc binary.

fn main() {
    println!("cargo:rerun-if-changed=proto/guest.proto");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .input("proto/guest.proto")
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ttrpc_codegen::ProtobufCustomize::default().gen_mod_rs(true))
        .customize(ttrpc_codegen::Customize { async_all: true, gen_mod: false, ..Default::default() })
        .run()
        .expect("generate the guest protocol from proto/guest.proto");
    // The generated files start with inner attributes, which `include!` refuses.
    for file in ["guest.rs", "guest_ttrpc.rs"] {
        let path = std::path::Path::new(&out).join(file);
        let text = std::fs::read_to_string(&path).expect("read generated code");
        let text: String = text
            .lines()
            .filter(|l| !l.starts_with("#![") && !l.starts_with("//!"))
            .map(|l| format!("{l}\n"))
            .collect();
        std::fs::write(&path, text).expect("write generated code");
    }
}
