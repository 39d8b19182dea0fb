# SPDX-License-Identifier: GPL-2.0
# For kernels without Rust: what they have for C alone is used, so that their headers package is enough.
#
# All of the Rust part becomes one object, from the library's core up: compiled with what this kernel's configuration
# asks of its own code (as a kernel with Rust compiles its own core), optimized as a whole, so that nothing of core is
# left but what is called. objtool then sees it as part of the module. Needs the library's sources beside RUSTC: Debian's
# packages rustc-web and rust-web-src, or rustup's component rust-src. The kernel's makefiles let any rustc take -Z.
coopvirt-y += glue/entry.o rust.o

rust-out := $(obj)/rust-out
# One file at a time, so rustc has no use for make's jobs; and where `+` is not, it would complain of them.
rustc = MAKEFLAGS= $(RUSTC)
rust-library = $(shell $(rustc) --print sysroot)/lib/rustlib/src/rust/library
rust-sources = $(shell find $(src)/*.rs $(src)/flavour $(src)/platform $(1) -name '*.rs')

# The target: rustc's own for code without an operating system and without floating point, and what of the kernel's
# mitigations is a feature of the target: indirect branches by thunks, and traps behind branches.
rust-features-$(CONFIG_MITIGATION_RETPOLINE) += +retpoline-external-thunk +retpoline-indirect-branches
rust-features-$(CONFIG_MITIGATION_RETPOLINE) += +retpoline-indirect-calls
rust-features-$(CONFIG_MITIGATION_SLS) += +harden-sls-ijmp +harden-sls-ret
rust-target-edits = -e 's/"features": "[^"]*/&$(subst $(space),,$(addprefix $(comma),$(rust-features-y)))/' \
	-e 's/"kind": "inline"/"kind": "none"/' -e 's/"plt-by-default": false/"plt-by-default": true/'

# The rest of them are flags: returns by a thunk, landing pads and no jump tables, room before each function.
rust-flags-$(CONFIG_MITIGATION_RETHUNK) += -Zfunction-return=thunk-extern
rust-flags-$(CONFIG_X86_KERNEL_IBT) += -Zcf-protection=branch
rust-flags-$(CONFIG_X86_KERNEL_IBT) += $(if $(shell $(rustc) -Chelp | grep jump-tables),-Cjump-tables=n,-Zno-jump-tables)
rust-flags-$(CONFIG_CALL_PADDING) += \
	-Zpatchable-function-entry=$(CONFIG_FUNCTION_PADDING_BYTES),$(CONFIG_FUNCTION_PADDING_BYTES)
rust-flags-$(CONFIG_FRAME_POINTER) += -Cforce-frame-pointers=y
# Addresses are those of the kernel's code, an interrupt may come at any time, nothing is unwound; arithmetic that
# overflows is found, as in the other flavour. Bitcode in place of code: all but the last step leave that to the last.
rust-flags = --target=$(rust-out)/target.json -Zunstable-options --sysroot=/dev/null -L $(rust-out) \
	--remap-path-prefix=$(rust-library)=library --remap-path-prefix=$(realpath $(src)/..)=coopvirt \
	-Ccode-model=kernel -Crelocation-model=static -Cno-redzone=y -Cpanic=abort -Cforce-unwind-tables=n \
	-Csymbol-mangling-version=v0 -Zfunction-sections=n -Coverflow-checks=y -Cdebug-assertions=n -Copt-level=2 \
	-Ccodegen-units=1 $(rust-flags-y)
rust-bitcode := -Clinker-plugin-lto
rust-rlib = $(rust-flags) --crate-type rlib $(rust-bitcode) --cap-lints=allow

quiet_cmd_rust_target = TARGET  $@
      cmd_rust_target = mkdir -p $(@D) && $(rustc) -Zunstable-options --print target-spec-json \
	--target x86_64-unknown-none | sed $(rust-target-edits) >$@

quiet_cmd_rust_core = RUSTC   $@
      cmd_rust_core = test -f $(rust-library)/core/src/lib.rs || \
	{ echo "$(RUSTC) has no library sources beside it: install rust-web-src, or rust-src" >&2; exit 1; }; \
	$(rustc) $(rust-rlib) --crate-name core --cfg no_fp_fmt_parse --edition \
	$$(sed -n 's/^edition = "\(.*\)"/\1/p' $(rust-library)/core/Cargo.toml) \
	--emit=link=$@ $(rust-library)/core/src/lib.rs

quiet_cmd_rust_lib = RUSTC   $@
      cmd_rust_lib = $(rustc) $(rust-rlib) --crate-name $(patsubst lib%,%,$(basename $(@F))) --edition 2021 \
	$(rust-externs) --emit=link=$@ $<

quiet_cmd_rust_object = RUSTC   $@
      cmd_rust_object = $(rustc) $(rust-flags) --crate-type staticlib -Clto=fat --crate-name coopvirt --edition 2021 \
	-Zcrate-attr=no_std $(rust-externs) --emit=link=$(rust-out)/libcoopvirt.a $< && \
	$(LD) $(KBUILD_LDFLAGS) -r --whole-archive -o $@ $(rust-out)/libcoopvirt.a && \
	$(OBJCOPY) --remove-section=.llvmbc --remove-section=.llvmcmd $@ $(cmd_objtool)

$(rust-out)/target.json: FORCE
	$(call if_changed,rust_target)
$(rust-out)/libcore.rlib: $(rust-out)/target.json FORCE
	$(call if_changed,rust_core)
# It takes no part in optimizing the whole.
$(rust-out)/libcompiler_builtins.rlib: private rust-bitcode :=
$(rust-out)/libcompiler_builtins.rlib: $(src)/flavour/compiler_builtins.rs $(rust-out)/libcore.rlib FORCE
	$(call if_changed,rust_lib)
$(rust-out)/libcoopvirt_spec.rlib: $(src)/../spec/src/lib.rs $(call rust-sources,$(src)/../spec/src) \
		$(rust-out)/libcompiler_builtins.rlib FORCE
	$(call if_changed,rust_lib)
$(rust-out)/libguest_shim.rlib: $(src)/../guest-shim/src/lib.rs $(call rust-sources,$(src)/../guest-shim/src) \
		$(rust-out)/libcoopvirt_spec.rlib FORCE
	$(call if_changed,rust_lib)
$(rust-out)/libguest_shim.rlib: private rust-externs := --extern coopvirt_spec
$(obj)/rust.o: private rust-externs := --extern coopvirt_spec --extern guest_shim
$(obj)/rust.o: $(src)/main.rs $(call rust-sources) $(rust-out)/libguest_shim.rlib FORCE
	$(call if_changed,rust_object)

targets += $(addprefix rust-out/,target.json $(addprefix lib,$(addsuffix .rlib,core compiler_builtins coopvirt_spec guest_shim)))
targets += rust.o
