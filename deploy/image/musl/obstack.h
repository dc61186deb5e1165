/* Stands in for glibc's <obstack.h>, which musl lacks: elfutils includes it, libelf uses nothing of it. */
#pragma once
