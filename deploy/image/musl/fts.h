/* Stands in for glibc's <fts.h>, which musl lacks: elfutils includes it, libelf uses nothing of it. */
#pragma once
