# SPDX-License-Identifier: GPL-2.0
# For kernels with Rust: their `kernel` crate, and their own rules.
# spec and guest-shim are compiled as they are, each its own object with its own metadata; the kernel's flags fix the
# edition, the target and the crate's name (that of the object), so no cargo takes part.
coopvirt-y += main.o coopvirt_spec.o guest_shim.o

extern-spec := --extern coopvirt_spec=$(obj)/libcoopvirt_spec.rmeta
extern-shim := --extern guest_shim=$(obj)/libguest_shim.rmeta

RUSTFLAGS_coopvirt_spec.o := --emit=metadata=$(obj)/libcoopvirt_spec.rmeta --cap-lints=allow
RUSTFLAGS_guest_shim.o := --emit=metadata=$(obj)/libguest_shim.rmeta --cap-lints=allow $(extern-spec)
# The path is for the shim's own use of the spec, whatever main.rs names first.
RUSTFLAGS_main.o := -L $(obj) $(extern-spec) $(extern-shim)

$(obj)/coopvirt_spec.o: $(src)/../spec/src/lib.rs FORCE
	+$(call if_changed_rule,rustc_o_rs)
$(obj)/guest_shim.o: $(src)/../guest-shim/src/lib.rs $(obj)/coopvirt_spec.o FORCE
	+$(call if_changed_rule,rustc_o_rs)
$(obj)/main.o: $(obj)/guest_shim.o
