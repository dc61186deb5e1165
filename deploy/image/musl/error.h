/* Stands in for glibc's <error.h>, which musl lacks: elfutils mentions it, libelf never calls it. */
#pragma once

void error(int status, int errnum, const char *format, ...);
